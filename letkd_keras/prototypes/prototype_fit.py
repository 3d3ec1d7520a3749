import logging
import time
from pathlib import Path

import keras
import numpy as np

from letkd_keras.functional.fingerprint import fingerprint
from letkd_keras.memory_mapped import check_room
from letkd_keras.prototypes.assembly import assemble
from letkd_keras.prototypes.kmeans import blocks
from letkd_keras.prototypes.labelled_images import LabelledImages
from letkd_keras.prototypes.passes import TeacherPasses
from letkd_keras.prototypes.penultimate_clusters import check_points, cluster_penultimate
from letkd_keras.prototypes.point_cache import NO_ROOM, cache_bytes
from letkd_keras.prototypes.progress import stage_progress
from letkd_keras.prototypes.prototypes import versions
from letkd_keras.prototypes.stage_store import MemoryStages, WorkDir
from letkd_keras.prototypes.subclasses import check_class_sizes, class_bounds, fit_subclasses
from letkd_keras.prototypes.teacher_features import TeacherFeatures

_log = logging.getLogger(__name__)


class PrototypeFit:
    """The offline stage as a sequence of stages, each kept once it is finished.

    `features` and `projected` (and `scores` where points were sampled) are passes over the data,
    which shards can share; `penultimate` and `subclasses` are k-means runs on what was gathered.
    Nothing of the size images x locations is held in memory.

    Args:
        teacher: As in `fit_prototypes`, and so are the next five.
        data: See there.
        templates: See there.
        subclasses: See there.
        components: See there.
        seed: See there.
        penultimate: Name of the teacher's layer whose features are clustered.
        intermediate: Name of the layer whose features are divided into sub-classes; `None` for
            letKD-1, which has no such supervision.
        pool: How many times the teacher's grid is the student's, by which it is averaged: 2 for the
            paper's ShuffleNets. One integer, or one for each tap.
        iterations: Iterations of each k-means.
        memory: Bytes of feature vectors held at a time. All points take part in the k-means while
            they fit, else a uniform sample of as many as fit: by default of a million of 64
            channels, 237 for each of 4096 clusters. LDA and scores always take all points. All of
            the 3.2 million of CIFAR-100 with a ResNet-56 need 0.9e9 bytes, or a cache.
        cache: "float32" or "float16" to keep all the points in a memory-mapped file in `workdir`
            instead, whatever `memory` is; the size is logged before it is written.
        workdir: Folder where finished stages are kept. A run interrupted at any point goes on from
            there and ends in the same bytes.
        preprocess: Function applied to each batch of images before the teacher.
        batch_size: Batch size where `data` are arrays.
        data_name: Name of the data for the manifest.
        class_names: Names of the classes for the manifest and for pictures.
        verbose: Whether to show progress; `"auto"` shows it in a terminal.
    """

    def __init__(
        self,
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
        memory=2**28,
        cache=None,
        workdir=None,
        preprocess=None,
        batch_size=256,
        data_name=None,
        class_names=None,
        verbose="auto",
    ):
        _check_numbers(
            templates=templates,
            subclasses=subclasses,
            components=components,
            iterations=iterations,
            memory=memory,
            batch_size=batch_size,
        )
        if cache not in (None, "float32", "float16") or (cache and workdir is None):
            raise ValueError(
                "`cache` must be None, 'float32' or 'float16', and needs a `workdir`. "
                f"Received: cache={cache!r}, workdir={workdir!r}"
            )
        taps = [penultimate] if intermediate is None else [penultimate, intermediate]
        self.features = TeacherFeatures(teacher, taps, pool)
        self.images = LabelledImages(data, self.features.num_classes, batch_size, preprocess)
        self.templates = templates
        self.subclasses = subclasses
        self.seed = seed
        self.iterations = iterations
        self.cache = cache
        self.verbose = verbose
        if cache is not None:
            self.images.count()
            if not Path(workdir).exists():  # a run that goes on has its room already
                self._check_room(workdir)
        if self.images.images is not None:
            self._check_counts(self.images.images_per_class)
        self.manifest = {
            "teacher": {"name": teacher.name, "fingerprint": fingerprint(teacher)},
            "data": {"name": data_name},
            "seed": seed,
            "iterations": iterations,
            "memory": memory,
            "cache": cache,
            "backend": keras.backend.backend(),
            "versions": versions(),
        }
        if class_names is not None:
            self.manifest["data"]["class_names"] = list(class_names)
        settings = {
            **self.manifest,
            "images": self.images.images,
            "taps": taps,
            "pool": self.features.pools,
            "templates": templates,
            "subclasses": subclasses,
            "components": components,
            "batch_size": batch_size,
        }
        self.stages = MemoryStages() if workdir is None else WorkDir(workdir, settings)
        self.passes = TeacherPasses(
            self.features,
            self.images,
            self.stages,
            components=components,
            seed=seed,
            memory=memory,
            cache=cache,
        )

    def run(self):
        """Run every stage that is not finished.

        Returns:
            `Prototypes`.
        """
        with stage_progress(self.verbose) as progress:
            self._finish("features", self._gather, progress)
            self._finish("penultimate", self._cluster, progress)
            if self.passes.has_intermediate:
                self._finish("projected", self._gather, progress)
                self._finish("subclasses", self._cluster_classes, progress)
                self._finish("scores", self._score, progress)
        return assemble(self.passes, self.manifest, self.subclasses)

    def run_shard(self, index, count):
        """Do one shard's part of the next pass over the data.

        The batches of the data are dealt to the shards in turn. Needs a `workdir` that all shards
        share, or that is copied between machines.

        Args:
            index: Which shard, 0 to `count` - 1.
            count: Number of shards.

        Returns:
            Name of the pass, or `None` if none waits for shards.

        Raises:
            ValueError: If there is no workdir, a cache is wanted or the numbers make no sense.
        """
        self._check_shards(index, count)
        stage = self.passes.next()
        if stage is not None and not self.stages.has(_part(stage, index, count)):
            with stage_progress(self.verbose) as progress:
                gatherer = self.passes.run(stage, progress, (index, count))
            self.stages.save(_part(stage, index, count), gatherer.state())
        return stage

    def merge(self, count):
        """Merge the shards' parts of a pass and run what follows, up to the next pass.

        Args:
            count: Number of shards.

        Returns:
            `Prototypes` if all stages are finished, else `None`: the shards must run again.

        Raises:
            ValueError: If a shard has not done its part.
        """
        self._check_shards(0, count)
        stage = self.passes.next()
        if stage is not None:
            parts = [_part(stage, shard, count) for shard in range(count)]
            self._check_parts(stage, parts)
            self.passes.merge(stage, parts)
        with stage_progress(self.verbose) as progress:
            self._finish("penultimate", self._cluster, progress)
            if self.passes.has_intermediate and self.stages.has("projected"):
                self._finish("subclasses", self._cluster_classes, progress)
                if self._holds_all_points():
                    self._finish("scores", self._score, progress)
        if self.passes.next() is not None:
            return None
        return assemble(self.passes, self.manifest, self.subclasses)

    def _finish(self, stage, compute, progress):
        if not self.stages.has(stage):
            start = time.monotonic()
            self.stages.save(stage, compute(stage, progress))
            _log.info("%s: %.1f s", stage, time.monotonic() - start)
        # Points are large, and what they were gathered for is done.
        if stage == "penultimate":
            self.stages.drop("features", ("points", "labels"))
        if stage == "scores":
            self.stages.drop("projected", ("points",))

    def _gather(self, stage, progress):
        return self.passes.run(stage, progress).result()

    def _cluster(self, stage, progress):
        self._check_counts(self.stages.load("features")["images"])
        return cluster_penultimate(
            self.passes, stage, self.templates, self.iterations, self.seed, progress
        )

    def _holds_all_points(self):
        """Whether the projected points held are all there are."""
        projected = self.stages.load("projected")
        return int(projected["sizes"].sum()) == int(projected["seen"])

    def _cluster_classes(self, stage, progress):
        projected = self.stages.load("projected")
        task = progress.add_task("sub-classes: k-means", total=self.features.num_classes)
        centers = fit_subclasses(
            projected["points"],
            projected["sizes"],
            self.subclasses,
            self.iterations,
            self.seed,
            on_class=lambda _: progress.advance(task),
        )
        return {"centers": centers}

    def _score(self, stage, progress):
        if not self._holds_all_points():
            return self._gather(stage, progress)
        projected = self.stages.load("projected")
        gatherer = self.passes.gatherer(stage)
        task = progress.add_task("sub-classes: scores", total=self.features.num_classes)
        for label, (start, stop) in enumerate(class_bounds(projected["sizes"])):
            for block in blocks(projected["points"][start:stop]):
                gatherer.add(block, np.full(len(block), label))
            progress.advance(task)
        return gatherer.result()

    # === Checks ===

    def _check_counts(self, images_per_class):
        images = int(np.sum(images_per_class))
        if images == 0:
            raise ValueError("`data` must have at least one image. Received: none")
        check_points(images * self.features.locations(0), self.templates)
        if len(self.features.taps) > 1:
            sizes = np.asarray(images_per_class) * self.features.locations(1)
            check_class_sizes(sizes, self.subclasses)

    def _check_room(self, workdir):
        """Refuse a cache before a folder is made that other settings could not use."""
        points = self.images.images * self.features.locations(0)
        check_room(workdir, cache_bytes(points, self.features.channels[0], self.cache), NO_ROOM)

    def _check_parts(self, stage, parts):
        missing = [part for part in parts if not self.stages.has(part)]
        if missing:
            raise ValueError(
                f"Every shard must have done its part of the pass {stage!r} before the merge. "
                f"Received: a workdir without {', '.join(missing)}"
            )

    def _check_shards(self, index, count):
        if not self.stages.durable or self.cache is not None:
            raise ValueError(
                "Shards need a `workdir` and no `cache`. "
                f"Received: cache={self.cache!r}, stages kept in {type(self.stages).__name__}"
            )
        if not 0 <= index < count:
            raise ValueError(
                f"A shard must be one of 0 to count - 1. Received: index={index}, count={count}"
            )


def _part(stage, index, count):
    return f"{stage}-{index}-of-{count}"


def _check_numbers(**numbers):
    for name, value in numbers.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1. Received: {name}={value}")
