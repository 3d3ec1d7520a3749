import sys

import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from letkd_keras.prototypes.fingerprint import fingerprint
from letkd_keras.prototypes.kmeans import kmeans
from letkd_keras.prototypes.labelled_images import LabelledImages
from letkd_keras.prototypes.lda import LinearDiscriminantAnalysis
from letkd_keras.prototypes.point_sample import PointSample
from letkd_keras.prototypes.prototypes import (
    IntermediatePrototypes,
    PenultimatePrototypes,
    Prototypes,
    versions,
)
from letkd_keras.prototypes.subclasses import SubclassScores, check_class_sizes, fit_subclasses
from letkd_keras.prototypes.teacher_features import TeacherFeatures

# The paper's number of LDA components for a number of classes too small for the one asked for.
_PUBLISHED_COMPONENTS = {10: 8}


def fit_prototypes(
    teacher,
    data,
    templates=4096,
    subclasses=8,
    components=60,
    seed=0,
    *,
    penultimate="penultimate",
    intermediate="intermediate",
    pool=1,
    iterations=20,
    memory=2**30,
    batch_size=256,
    data_name=None,
    verbose="auto",
):
    """Fit a teacher's prototypes to the training images: the offline stage of letKD.

    The teacher runs in inference mode, once over the data for the penultimate clusters and the
    statistics of the LDA, once more for the sub-classes where there is an intermediate tap.

    Args:
        teacher: A functional `keras.Model` from images to logits [B, classes].
        data: `(images, labels)` arrays or a repeatable set of `(images, labels, ...)` batches such
            as a `tf.data.Dataset`; the training images as the teacher takes them, normalised and
            without augmentation; labels are integers [B].
        templates: Number K of penultimate clusters.
        subclasses: Clusters of each class at the intermediate tap.
        components: LDA components kept, never more than classes - 1 or channels. Where the
            classes do not give as many as asked for, the number is the paper's (8 for ten
            classes) or classes - 1.
        seed: Seed of the k-means runs and, where points exceed `memory`, of the sample.
        penultimate: Name of the teacher's layer whose features are clustered.
        intermediate: Name of the layer whose features are divided into sub-classes; `None` for
            letKD-1, which has no such supervision.
        pool: 2 if the student's grid is half the teacher's (average pooling 2x2), else 1.
        iterations: Iterations of each k-means.
        memory: Bytes of feature vectors held at a time. All points take part in the k-means while
            they fit, else a uniform sample of as many as fit. Full CIFAR-100 with a ResNet-56
            needs 0.8e9.
        batch_size: Batch size where `data` are arrays.
        data_name: Name of the data for the manifest.
        verbose: Whether to show progress; `"auto"` shows it in a terminal.

    Returns:
        `Prototypes`.

    Raises:
        ValueError: If an argument is out of its range, a tap is not in the teacher, labels are not
            integers below the teacher's number of classes, or there are fewer points than clusters.

    Reference:
        Görgün, Gürbüz, Alatan. "Knowledge Distillation Layer that Lets the Student Decide", BMVC
        2023, arXiv:2309.02843, section 3, with the numbers of the authors' program.
    """
    for name, value in (
        ("templates", templates),
        ("subclasses", subclasses),
        ("components", components),
        ("iterations", iterations),
        ("memory", memory),
        ("batch_size", batch_size),
    ):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {name}={value}")
    taps = [penultimate] if intermediate is None else [penultimate, intermediate]
    features = TeacherFeatures(teacher, taps, pool)
    images = LabelledImages(data, features.num_classes, batch_size)
    _check_counts(features, images, templates, subclasses)

    fit = _Fit(features, images, seed, iterations, memory, _progress(verbose))
    with fit.progress:
        points, lda = fit.collect()
        _check_points(len(points), templates)
        if lda is not None:
            check_class_sizes(lda.counts, subclasses)
        level_1 = PenultimatePrototypes(
            penultimate, features.grids[0], pool, fit.penultimate_centers(points, templates)
        )
        del points
        level_2 = None
        if lda is not None:
            components = lda_components(components, features.num_classes, features.channels[1])
            mean, scalings = (a.astype("float32") for a in lda.solve(components))
            centers, scores = fit.subclasses(mean, scalings, subclasses)
            level_2 = IntermediatePrototypes(
                intermediate,
                features.grids[1],
                pool,
                mean,
                scalings,
                centers,
                scores,
                features.num_classes,
                subclasses,
            )
    manifest = {
        "teacher": {"name": teacher.name, "fingerprint": fingerprint(teacher)},
        "data": {"name": data_name, "images": fit.seen},
        "seed": seed,
        "iterations": iterations,
        "backend": keras.backend.backend(),
        "versions": versions(),
    }
    return Prototypes(level_1, level_2, manifest)


def lda_components(components, num_classes, channels):
    """Number of LDA components: what is asked for, or what the classes and channels give."""
    if components > num_classes - 1:
        components = _PUBLISHED_COMPONENTS.get(num_classes, num_classes - 1)
    return min(components, channels)


class _Fit:
    """The stages of one run over one data set."""

    def __init__(self, features, images, seed, iterations, memory, progress):
        self.features = features
        self.images = images
        self.seed = seed
        self.iterations = iterations
        self.memory = memory
        self.progress = progress
        self.seen = 0

    def batches(self, description):
        """Yield `(index of the first image, labels, features of each tap)`, showing progress."""
        task = self.progress.add_task(description, total=self.images.images)
        first = 0
        for images, labels in self.images:
            yield first, labels, self.features(images)
            first += len(labels)
            self.progress.advance(task, len(labels))
        self.seen = first
        self.progress.update(task, total=first)

    def collect(self):
        """Penultimate points [N, C] and, with an intermediate tap, the statistics of its LDA."""
        channels = self.features.channels
        sample = PointSample.within(self.memory, channels[0], self.seed)
        lda = None
        if len(channels) > 1:
            lda = LinearDiscriminantAnalysis(self.features.num_classes, channels[1])
        for first, labels, features in self.batches("teacher's features"):
            self._add(sample, 0, first, labels, features[0])
            if lda is not None:
                lda.update(features[1], np.repeat(labels, self.features.locations(1)))
        return sample.sorted()[0], lda

    def _add(self, sample, tap, first, labels, points):
        locations = self.features.locations(tap)
        indices = first * locations + np.arange(len(points))
        sample.update(points, np.repeat(labels, locations), indices)

    def penultimate_centers(self, points, templates):
        task = self.progress.add_task("penultimate clusters", total=self.iterations)
        return kmeans(
            points,
            templates,
            self.iterations,
            self.seed,
            on_iteration=lambda *_: self.progress.advance(task),
        )

    def subclasses(self, mean, scalings, subclasses):
        """Sub-class centres [K, d] and scores [K, K]."""
        num_classes = self.features.num_classes
        dimensions = scalings.shape[1]
        sample = PointSample.within(self.memory, dimensions, self.seed)
        for first, labels, features in self.batches("projected features"):
            self._add(sample, 1, first, labels, (features[1] - mean) @ scalings)
        complete = sample.size == sample.seen
        points, labels = sample.sorted(by_class=True)

        task = self.progress.add_task("sub-classes", total=num_classes)
        centers = fit_subclasses(
            points,
            labels,
            num_classes,
            subclasses,
            self.iterations,
            self.seed,
            on_class=lambda *_: self.progress.advance(task),
        )
        scores = SubclassScores(centers, num_classes)
        if complete:
            scores.update(points, labels)
        else:
            del points
            for _, labels, features in self.batches("sub-class scores"):
                labels = np.repeat(labels, self.features.locations(1))
                scores.update((features[1] - mean) @ scalings, labels)
        return centers, scores.result()


def _check_counts(features, images, templates, subclasses):
    """What can be known to fail before any image is looked at."""
    if images.images is None:
        return
    if images.images == 0:
        raise ValueError("`data` must have at least one image. Received: none")
    _check_points(images.images * features.locations(0), templates)
    if len(features.taps) > 1:
        sizes = np.bincount(images.labels, minlength=features.num_classes)
        check_class_sizes(sizes * features.locations(1), subclasses)


def _check_points(points, templates):
    if points < templates:
        raise ValueError(
            "There must be at least as many feature vectors as clusters. "
            f"Received: templates={templates} for {points} feature vectors"
        )


def _progress(verbose):
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = sys.stderr.isatty() if verbose == "auto" else bool(verbose)
    return Progress(*columns, console=Console(stderr=True), disable=not shown)
