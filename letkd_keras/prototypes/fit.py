import json
import logging
import time
from pathlib import Path

import keras
import numpy as np

from letkd_keras import ranges
from letkd_keras.commands.progress import bars
from letkd_keras.functional.fingerprint import fingerprint
from letkd_keras.functional.layer_suggestions import suggest_layers
from letkd_keras.functional.softmax_removal import remove_softmax
from letkd_keras.levels import LEVELS
from letkd_keras.memory_mapped import check_room
from letkd_keras.prototypes.engines import make_engine
from letkd_keras.prototypes.health import intermediate_health, penultimate_health
from letkd_keras.prototypes.kmeans import blocks, kmeans
from letkd_keras.prototypes.labelled_images import LabelledImages
from letkd_keras.prototypes.passes import POINTS_PER_CENTER, Passes
from letkd_keras.prototypes.points import NO_ROOM, cache_bytes
from letkd_keras.prototypes.prototypes import (
    IntermediatePrototypes,
    PenultimatePrototypes,
    Prototypes,
)
from letkd_keras.prototypes.steps import STEPS, MemorySteps, WorkFolder
from letkd_keras.prototypes.subclasses import (
    check_class_sizes,
    class_bounds,
    fit_subclasses,
    normalized_scores,
)
from letkd_keras.prototypes.teacher_features import TeacherFeatures, at_size
from letkd_keras.versions import versions

log = logging.getLogger(__name__)


def fit_prototypes(
    teacher,
    data,
    *,
    templates=4096,
    subclasses=8,
    components=60,
    levels=None,
    penultimate_layer=None,
    intermediate_layer=None,
    pool_size=1,
    iterations=20,
    seed=0,
    memory=None,
    feature_cache=None,
    workdir=None,
    preprocess=None,
    batch_size=256,
    data_name=None,
    class_names=None,
    verbose="auto",
    engine="local",
    workers=None,
):
    """Fit a teacher's prototypes to the training images: the offline part of letKD.

    The fit is a sequence of steps:

    1. `features`: the teacher sees every image once. This step keeps the penultimate feature
       vectors for the k-means, and the class means and scatter of the intermediate feature vectors
       for the LDA.
    2. `penultimate`: k-means of the penultimate feature vectors.
    3. `projected`: the teacher sees every image again. This step keeps the intermediate feature
       vectors in the space of the LDA.
    4. `subclasses`: a k-means of each class's vectors.
    5. `scores`: which sub-class is nearest to each vector, counted. If the vectors kept by step 3
       are only a sample, the teacher sees every image once more.

    The last three are left out where there is no intermediate level. The teacher runs in inference
    mode and stays as it is. Memory does not grow with the number of images.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits or softmax
            probabilities [B, classes]. Where it takes images of any size, the grids are those of
            the first image. The tokens of a transformer become a grid without the class token and
            other tokens that are no patches (`letkd_keras.functional.feature_maps`).
        data: `(images, labels)` arrays, or a set of `(images, labels, ...)` batches that can be
            iterated over several times, such as a `tf.data.Dataset`: the training images as the
            teacher takes them, normalized, without augmentation and in the same order at each pass.
            Labels are integers [B], or one-hot [B, classes].
        templates: Number K of penultimate clusters.
        subclasses: Number of sub-classes (clusters) of each class at the intermediate level.
        components: Number of LDA components, never more than classes - 1 or channels. Where the
            classes allow fewer than wanted, the number is the paper's (8 for ten classes) or
            classes - 1.
        levels: Levels to fit, `("penultimate",)` (letKD-1) or `("penultimate", "intermediate")`
            (letKD-2). `None` means both, or the penultimate one alone where no intermediate layer
            can be suggested.
        penultimate_layer: Name of the teacher's layer whose output is clustered. `None` means the
            one that `suggest_layers` names.
        intermediate_layer: Name of the teacher's layer whose output is divided into sub-classes.
            `None` means the one that `suggest_layers` names.
        pool_size: Window and stride of the average pooling that gives the teacher's features the
            grid of the student: 2 for the paper's ShuffleNets, 1 for none. Where it does not divide
            the grid, the windows at the edges are smaller: 2 makes 4x4 of 7x7. One integer, or a
            dictionary by level. If the grids still differ, `LetKD` averages the finer one.
        iterations: Number of iterations of each k-means.
        seed: Seed of the k-means runs and of the sample of feature vectors.
        memory: Bytes of feature vectors that a step holds. If all vectors fit, each k-means takes
            all of them, otherwise a uniform sample. LDA and scores always take all. `None` means
            256 MiB, or as much as 256 vectors for each center need if that is more. With 4096
            templates those are 0.29e9 bytes for 64 channels, 2.2e9 for 512 and 8.6e9 for 2048. All
            vectors of CIFAR-100 with 64 channels on an 8x8 grid are 0.9e9 bytes. If there are fewer
            than 256 vectors for each center, a warning is logged.
        feature_cache: `"float32"` or `"float16"` to keep all vectors in a memory-mapped file in
            `workdir`, whatever `memory` is, so that each k-means takes all of them. `None` means no
            file.
        workdir: Folder in which finished steps are kept. A fit that was interrupted at any moment
            continues from there and ends in the same bytes. The folder must be new, empty or one of
            an earlier fit with the same settings; `remove_workdir` removes it. `None` means memory.
        preprocess: Function applied to each batch of images before the teacher, or `None`.
        batch_size: Size of the batches taken from arrays.
        data_name: Name of the data for the manifest, or `None`.
        class_names: Names of the teacher's classes, in the order of the labels, for the manifest
            and for pictures, or `None`. The penultimate level alone may have fewer.
        verbose: Whether to show progress; `"auto"` shows it in a terminal.
        engine: `"local"` to run the teacher in this process; `"ray"` to run it in actors of Ray
            Data, on this machine or, where `RAY_ADDRESS` names a Ray cluster, on all of its
            machines. The actors read the images: `data` must be arrays or have batches of one size
            by number, such as `letkd_keras.data.NumberedBatches` or a `keras.utils.PyDataset`. The
            result is the same, and a `workdir` can be continued by either engine.
        workers: Number of actors, with `engine="ray"`. Each has one GPU if there are any, else its
            share of the processors.

    Returns:
        `Prototypes`.

    Raises:
        ImportError: If `engine` is `"ray"` and Ray is not installed.
        ValueError: If an argument is out of its range, a layer is not in the teacher, there are
            not as many names as classes, images are not finite, labels are not integers below the
            teacher's number of classes or differ between two passes, there are fewer feature
            vectors than clusters, or `workdir` holds other files or a fit with other settings.
        OSError: If the disk has no room for the feature cache.

    Reference:
        Görgün, Gürbüz, Alatan. "Knowledge Distillation Layer that Lets the Student Decide", BMVC
        2023, arXiv:2309.02843, section 3, with the numbers of the authors' program.
    """
    numbers = {
        "templates": templates,
        "subclasses": subclasses,
        "components": components,
        "iterations": iterations,
        "batch_size": batch_size,
    }
    # Python's integers: the files of a fit cannot have NumPy's.
    templates, subclasses, components, iterations, batch_size = (
        ranges.positive_integer.check(value, name) for name, value in numbers.items()
    )
    if memory is not None:
        memory = ranges.byte_count.check(memory, "memory")
    seed = ranges.seed.check(seed, "seed")
    _check_feature_cache(feature_cache, workdir)
    engine = make_engine(engine, workers)

    # === The teacher's layers and the images ===
    teacher = remove_softmax(teacher, "teacher")
    images = LabelledImages(data, teacher.output_shape[-1], batch_size, preprocess)
    engine.check(images)
    image_shape = tuple(teacher.input_shape[1:])
    if None in image_shape:
        image_shape = images.image_shape()
    layers = _layers(at_size(teacher, image_shape), levels, penultimate_layer, intermediate_layer)
    features = TeacherFeatures(teacher, layers, pool_size, image_shape)
    if feature_cache is not None:
        images.read_labels()
    if images.labels is not None:
        _check_points(images.per_class(), features, templates, subclasses)
    class_names = _checked_names(class_names, teacher.output_shape[-1], layers)
    if feature_cache is not None and not Path(workdir).exists():
        _check_room(workdir, images, features, feature_cache)

    # === What the prototypes depend on ===
    manifest = {
        "teacher": {"name": teacher.name, "fingerprint": fingerprint(teacher)},
        "data": {"name": None if data_name is None else str(data_name)},
        "image_shape": image_shape,
        "seed": seed,
        "iterations": iterations,
        "memory": memory,
        "feature_cache": feature_cache,
        "backend": keras.backend.backend(),
        "versions": versions(("letkd-keras", "keras", "tensorflow", "numpy", "faiss-cpu")),
    }
    if class_names is not None:
        manifest["data"]["class_names"] = class_names
    counts = {"templates": templates, "subclasses": subclasses, "components": components}
    steps = MemorySteps()
    if workdir is not None:
        features.check_shape(images.image_shape())
        settings = {**_settings(manifest, images, features), **counts, "batch_size": batch_size}
        steps = WorkFolder(workdir, settings)

    # === The steps ===
    is_shown = None if verbose == "auto" else bool(verbose)
    with steps.locked(), bars(is_shown) as progress, engine:
        passes = Passes(
            features,
            images,
            steps,
            **counts,
            seed=seed,
            memory=memory,
            feature_cache=feature_cache,
            engine=engine,
            progress=progress,
        )
        _run_steps(passes, iterations)
        return _prototypes(passes, manifest)


def _settings(manifest, images, features):
    """What a work folder belongs to, but the numbers of clusters and components."""
    return {
        **manifest,
        "data": {**manifest["data"], "first_batch": images.digest()},
        "images": None if images.labels is None else len(images.labels),
        # Without names, which Keras numbers differently in another process.
        "teacher": {"fingerprint": manifest["teacher"]["fingerprint"]},
        "layers": {level: features.position(level) for level in features.layers},
        "pool_size": features.pool_sizes,
    }


# === The steps ===


def _run_steps(passes, iterations):
    """Compute and keep the steps that are not finished."""
    steps = passes.steps
    compute = {
        "features": lambda: passes.run("features"),
        "penultimate": lambda: _penultimate(passes, iterations),
        "projected": lambda: passes.run("projected"),
        "subclasses": lambda: _subclasses(passes, iterations),
        "scores": lambda: _scores(passes),
    }
    for step in STEPS if "intermediate" in passes.features.layers else STEPS[:2]:
        if not steps.has(step):
            start = time.monotonic()
            steps.save(step, compute[step]())
            log.info("%s: %.1f s", step, time.monotonic() - start)
        _remove_used(steps, step)


def _penultimate(passes, iterations):
    """The k-means of the penultimate points, resumed after its last finished iteration."""
    steps, features, step = passes.steps, passes.features, "penultimate"
    gathered = steps.load("features")
    points, image_labels = gathered["points"], gathered["image_labels"]
    per_class = np.bincount(image_labels, minlength=features.num_classes)
    _check_points(per_class, features, passes.templates, passes.subclasses)
    total = passes.total(step)
    _log_sample_size(len(points), total, "templates", passes.templates)
    task = passes.progress.add_task("penultimate: k-means", total=iterations)
    last = steps.load_checkpoint(step)

    def on_iteration(number, centers):
        steps.save_checkpoint(step, {"number": number, "centers": centers})
        passes.progress.update(task, completed=number)

    centers = kmeans(
        points,
        passes.templates,
        iterations,
        passes.seed,
        on_iteration,
        resume=(int(last["number"]), last["centers"]) if last else None,
    )
    health = penultimate_health(centers, points, gathered["labels"], features.num_classes)
    health["all_points"] = total
    return {"centers": centers, "health": np.frombuffer(json.dumps(health).encode(), "uint8")}


def _subclasses(passes, iterations):
    """A k-means of each class's projected points."""
    projected = passes.steps.load("projected")
    points, sizes = projected["points"], projected["sizes"]
    total = passes.total("intermediate")
    _log_sample_size(len(points), total, "subclasses", passes.subclasses, len(sizes))
    task = passes.progress.add_task("sub-classes: k-means", total=len(sizes))
    centers = fit_subclasses(
        points,
        sizes,
        passes.subclasses,
        iterations,
        passes.seed,
        on_class=lambda _: passes.progress.advance(task),
    )
    return {"centers": centers}


def _scores(passes):
    """The nearest sub-classes, counted: from the points held, or by a pass if they are a sample."""
    projected = passes.steps.load("projected")
    if int(projected["sizes"].sum()) < passes.total("intermediate"):
        return passes.run("scores")
    gatherer = passes.gatherer("scores")
    task = passes.progress.add_task("sub-classes: scores", total=len(projected["sizes"]))
    for label, (start, stop) in enumerate(class_bounds(projected["sizes"])):
        for block in blocks(projected["points"][start:stop]):
            gatherer.add(gatherer.summarize_points(block, np.full(len(block), label)))
        passes.progress.advance(task)
    return gatherer.result()


def _remove_used(steps, step):
    """Remove what a finished step has made superfluous: points are large."""
    if step == "penultimate":
        steps.drop("features", ("points", "labels"))
    if step == "scores":
        steps.drop("projected", ("points",))


def _prototypes(passes, manifest):
    """The prototypes of finished steps."""
    features, steps = passes.features, passes.steps
    clusters = steps.load("penultimate")
    health = {"penultimate": json.loads(clusters["health"].tobytes())}

    def source(level):
        return {
            "layer": features.layers[level],
            "grid": features.grids[level],
            "pool_size": features.pool_sizes[level],
            "position": features.position(level),
        }

    penultimate = PenultimatePrototypes(
        **source("penultimate"), centers=np.array(clusters["centers"])
    )
    intermediate = None
    if "intermediate" in features.layers:
        projection, scored = passes.projection, steps.load("scores")
        counts = np.array(scored["counts"])
        intermediate = IntermediatePrototypes(
            **source("intermediate"),
            lda_mean=projection.mean,
            lda_scalings=projection.scalings,
            centers=np.array(steps.load("subclasses")["centers"]),
            subclass_scores=normalized_scores(counts).astype("float32"),
            num_classes=features.num_classes,
            subclasses=passes.subclasses,
        )
        health["intermediate"] = {
            **intermediate_health(counts, int(scored["right"])),
            "lda_components": projection.scalings.shape[1],
            "lda_components_wanted": passes.wanted_components,
        }
    data = {**manifest["data"], "images": len(steps.load("features")["image_labels"])}
    return Prototypes(penultimate, intermediate, {**manifest, "data": data, "health": health})


# === Choices, checks and messages ===


def _layers(teacher, levels, penultimate_layer, intermediate_layer):
    """Layer names by level."""
    if levels is not None and ("penultimate" not in levels or set(levels) - set(LEVELS)):
        raise ValueError(
            '`levels` must be ("penultimate",), ("penultimate", "intermediate") or None. '
            f"Received: levels={levels!r}"
        )
    layers = {"penultimate": penultimate_layer, "intermediate": intermediate_layer}
    layers = {level: layers[level] for level in LEVELS if level in (levels or LEVELS)}
    if None in layers.values():
        suggested = suggest_layers(teacher, "teacher")
        layers = {level: layer or suggested[level] for level, layer in layers.items()}
    if layers.get("intermediate", "") is None:
        if levels is not None:
            raise ValueError(
                "`intermediate_layer` must name a layer of the teacher: none can be suggested. "
                'letKD-1 needs none: levels=("penultimate",).'
            )
        log.warning(
            "No intermediate layer of %r can be suggested: the prototypes are those of letKD-1.",
            teacher.name,
        )
        del layers["intermediate"]
    named = ", ".join(f"{level} {layer!r}" for level, layer in layers.items())
    log.info("The teacher's layers: %s", named)
    return layers


def _log_sample_size(points, total, argument, number, times=1):
    """Say how few feature vectors a k-means has for its `times` the `number` of an argument."""
    centers = number * times
    if points < total:
        level = logging.INFO if points >= POINTS_PER_CENTER * centers else logging.WARNING
        log.log(
            level,
            "k-means takes a sample of %d of the %d feature vectors, %d for each of %d centers "
            "(at least %d are advised): more `memory` or a `feature_cache` makes room for more.",
            points,
            total,
            points // centers,
            centers,
            POINTS_PER_CENTER,
        )
    elif points < POINTS_PER_CENTER * centers:
        advised = max(1, points // (POINTS_PER_CENTER * times))
        fewer = ""
        if advised < number:
            fewer = (
                f": fewer centers may serve as well, down to --{argument} {advised} "
                f"(`{argument}={advised}` in Python)"
            )
        log.info(
            "k-means has only %d feature vectors for each of %d centers (at least %d are "
            "advised)%s.",
            points // centers,
            centers,
            POINTS_PER_CENTER,
            fewer,
        )


def _checked_names(class_names, classes, levels):
    """The names as a list of texts, or `None`."""
    if class_names is None:
        return None
    names = [str(name) for name in class_names]
    # The penultimate level alone may be fitted to images of some of the teacher's classes.
    if isinstance(class_names, str) or ("intermediate" in levels and len(names) != classes):
        raise ValueError(
            f"`class_names` must be a sequence of {classes} names, one for each of the teacher's "
            f"classes. Received: class_names={ranges.shown(class_names)}"
        )
    return names


def _check_feature_cache(feature_cache, workdir):
    if feature_cache not in (None, "float32", "float16") or (feature_cache and workdir is None):
        raise ValueError(
            "`feature_cache` must be None, 'float32' or 'float16', and needs a `workdir`. "
            f"Received: feature_cache={feature_cache!r}, workdir={workdir!r}"
        )


def _check_points(per_class, features, templates, subclasses):
    images = int(np.sum(per_class))
    if images == 0:
        raise ValueError("`data` must have at least one image. Received: none")
    points = images * features.locations("penultimate")
    if points < templates:
        raise ValueError(
            "There must be at least as many feature vectors as clusters. "
            f"Received: templates={templates} for {points} feature vectors"
        )
    if "intermediate" in features.layers:
        check_class_sizes(per_class * features.locations("intermediate"), subclasses)


def _check_room(workdir, images, features, feature_cache):
    """Refuse a cache before a folder is created that other settings could not use."""
    points = len(images.labels) * features.locations("penultimate")
    size = cache_bytes(points, features.channels["penultimate"], feature_cache)
    check_room(workdir, size, NO_ROOM)
