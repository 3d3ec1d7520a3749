import logging
from functools import cached_property

import numpy as np

from letkd_keras.prototypes.gatherers import FeatureGatherer, ProjectedGatherer, ScoreGatherer
from letkd_keras.prototypes.lda import LinearDiscriminantAnalysis, Projection, lda_components
from letkd_keras.prototypes.point_cache import PointCache, cache_bytes
from letkd_keras.prototypes.point_sample import PointSample

_log = logging.getLogger(__name__)


class TeacherPasses:
    """The passes of a teacher over the data: `features`, `projected` and `scores`.

    Args:
        features: The `TeacherFeatures`.
        images: The `LabelledImages`.
        stages: Where finished stages are kept.
        components: LDA components wanted.
        seed: Seed of the samples.
        memory: Bytes of feature vectors held by a pass.
        cache: Type of the points kept on disk instead, or `None`.
    """

    def __init__(self, features, images, stages, *, components, seed, memory, cache):
        self.features = features
        self.images = images
        self.stages = stages
        self.components = components
        self.seed = seed
        self.memory = memory
        self.cache = cache

    def next(self):
        """Name of the first pass that is not finished, or `None`."""
        passes = ["features", "projected", "scores"][: 3 if self.has_intermediate else 1]
        return next((stage for stage in passes if not self.stages.has(stage)), None)

    @property
    def has_intermediate(self):
        """Whether there is an intermediate tap."""
        return len(self.features.taps) > 1

    @cached_property
    def intermediate(self):
        """The `TeacherFeatures` of the intermediate tap alone, for the passes after the first."""
        return self.features.last_tap()

    def run(self, stage, progress, shard=(0, 1)):
        """Show the teacher a shard's part of the data.

        Returns:
            The gatherer of the stage, which has seen it.
        """
        gatherer = self.gatherer(stage)
        features = self.features if stage == "features" else self.intermediate
        task = progress.add_task(f"{stage}: teacher", total=self.images.images)
        for first, images, labels in self.images.batches(shard):
            if images is not None:
                gatherer.update(first, labels, features(images))
            progress.update(task, completed=first + len(labels))
        return gatherer

    def merge(self, stage, parts):
        """Make a stage of the parts of all shards, which are removed."""
        gatherer = self.gatherer(stage)
        for part in parts:
            gatherer.merge(self.stages.load(part))
        self.stages.save(stage, gatherer.result())
        for part in parts:
            self.stages.remove(part)

    def gatherer(self, stage):
        """A new gatherer for a stage."""
        if stage == "features":
            features = self.features
            total = (self.images.images or 0) * features.locations(0)
            return FeatureGatherer(features, self._points(stage, features.channels[0], total))
        if stage == "scores":
            centers = self.stages.load("subclasses")["centers"]
            return ScoreGatherer(self.intermediate, self.projection, centers)
        sizes = self.stages.load("features")["counts"]
        points = self._points(stage, self.projection.scalings.shape[1], sizes)
        return ProjectedGatherer(self.intermediate, self.projection, points, int(sizes.sum()))

    def _points(self, stage, channels, sizes):
        if self.cache is None:
            return PointSample.within(self.memory, channels, self.seed)
        folder = self.stages.folder(stage)
        size = cache_bytes(int(np.sum(sizes)), channels, self.cache)
        _log.warning("Writing a feature cache of %s bytes into %s", f"{size:,}", folder)
        return PointCache(folder, sizes, channels, self.cache)

    @property
    def wanted_components(self):
        """LDA components wanted of these classes and channels."""
        return lda_components(self.components, self.features.num_classes, self.features.channels[1])

    @cached_property
    def projection(self):
        """The LDA's `Projection`, once the pass `features` is finished."""
        lda = LinearDiscriminantAnalysis(self.features.num_classes, self.features.channels[1])
        lda.merge(self.stages.load("features"))
        projection = Projection(lda, self.wanted_components)
        found = projection.scalings.shape[1]
        if found < self.wanted_components:
            _log.warning(
                "The LDA has %d components of %d wanted: the features of a class vary in too few "
                "directions (constant channels, or fewer points than channels).",
                found,
                self.wanted_components,
            )
        return projection
