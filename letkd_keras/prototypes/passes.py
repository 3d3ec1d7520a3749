"""Passes of a teacher over the data, and what each of them gathers.

A gatherer takes the features of batches (`update`) and ends in the arrays of its step (`result`).
Another process can do a batch: a `part` of the gatherer, which is small and can be sent there,
takes the features, and its `state` comes back to be merged (`merge`). Merged in the order of the
batches, parts give the same arrays as `update`, to the bit.
"""

import copy
import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.progress import Progress

from letkd_keras.prototypes.engines import LocalEngine, RayEngine
from letkd_keras.prototypes.labeled_images import LabeledImages
from letkd_keras.prototypes.lda import LinearDiscriminantAnalysis, Projection, lda_components
from letkd_keras.prototypes.points import PointCache, PointSample, cache_bytes
from letkd_keras.prototypes.steps import MemorySteps, WorkFolder
from letkd_keras.prototypes.subclasses import SubclassScores
from letkd_keras.prototypes.teacher_features import TeacherFeatures

log = logging.getLogger(__name__)

# Fewer points than this for each center leave a k-means with poor centers.
POINTS_PER_CENTER = 256

# Bytes of points that a sample holds where `memory` is None, if they are enough.
_DEFAULT_MEMORY = 2**28


@dataclass(eq=False)
class Passes:
    """The passes `features`, `projected` and `scores`.

    Attributes:
        features: The `TeacherFeatures`.
        images: The `LabeledImages`.
        steps: Where finished steps are kept.
        templates: Centers of the penultimate k-means.
        subclasses: Centers of the k-means of each class.
        components: LDA components wanted.
        seed: Seed of the samples.
        memory: Bytes of feature vectors held by a pass, or `None`.
        feature_cache: Type of the points kept on disk instead, or `None`.
        engine: `LocalEngine` or `RayEngine`, which runs the teacher.
        progress: Where progress is shown.
    """

    features: TeacherFeatures
    images: LabeledImages
    steps: MemorySteps | WorkFolder
    templates: int
    subclasses: int
    components: int
    seed: int
    memory: int | None
    feature_cache: str | None
    engine: LocalEngine | RayEngine
    progress: Progress

    def run(self, step):
        """Show the teacher all images.

        Returns:
            Arrays of the step.
        """
        features = self.features
        if step != "features":
            self.images.expect(self.steps.load("features")["image_labels"])
            features = self._intermediate
        gatherer = self.gatherer(step)
        task = self.progress.add_task(f"{step}: teacher", total=self.images.num_images)
        for done in self.engine.run(features, self.images, gatherer):
            self.progress.update(task, completed=done)
        arrays = gatherer.result()
        # The labels of the first pass are kept: those of later passes must be the same.
        return {**arrays, "image_labels": self.images.labels} if step == "features" else arrays

    def gatherer(self, step):
        """A new gatherer for a step."""
        if step == "features":
            points = self._points(
                step,
                self.features.channels["penultimate"],
                (self.images.num_images or 0) * self.features.locations("penultimate"),
                self.templates,
            )
            return FeatureGatherer(self.features, points)
        if step == "scores":
            centers = self.steps.load("subclasses")["centers"]
            return ScoreGatherer(self.features, self.projection, centers)
        points = self._points(
            step,
            self.projection.scalings.shape[1],
            self.steps.load("features")["counts"],
            self.subclasses * self.features.num_classes,
        )
        return ProjectedGatherer(self.features, self.projection, points)

    @property
    def wanted_components(self):
        """LDA components wanted for these classes and channels."""
        channels = self.features.channels["intermediate"]
        return lda_components(self.components, self.features.num_classes, channels)

    @cached_property
    def projection(self):
        """The LDA's `Projection`, once the pass `features` is finished."""
        channels = self.features.channels["intermediate"]
        lda = LinearDiscriminantAnalysis(self.features.num_classes, channels)
        lda.merge(self.steps.load("features"))
        projection = Projection(lda, self.wanted_components)
        solved = projection.scalings.shape[1]
        if solved < self.wanted_components:
            log.warning(
                "The LDA has %d components of %d wanted: the features of a class vary in too few "
                "directions (constant channels, or fewer points than channels).",
                solved,
                self.wanted_components,
            )
        return projection

    @cached_property
    def _intermediate(self):
        return self.features.only("intermediate")

    def _points(self, step, channels, sizes, centers):
        total = int(np.sum(sizes))
        if self.feature_cache is not None:
            folder = self.steps.folder(step)
            size = cache_bytes(total, channels, self.feature_cache)
            log.info("Writing a feature cache of %s bytes into %s", f"{size:,}", folder)
            return PointCache(folder, sizes, channels, self.feature_cache)
        capacity = sample_size(self.memory, channels, centers)
        # Points that are known not to come need no room.
        capacity = min(capacity, total) if total else capacity
        return PointSample(capacity, channels, self.seed, total or None)


def sample_size(memory, channels, centers):
    """Number of points that a k-means takes at most.

    Args:
        memory: Bytes of points. `None` means 256 MiB, or as much as 256 points for each center
            need if that is more.
        channels: Number of channels C.
        centers: Number of centers.
    """
    if memory is not None:
        return PointSample.fitting(memory, channels)
    return max(PointSample.fitting(_DEFAULT_MEMORY, channels), POINTS_PER_CENTER * centers)


class FeatureGatherer:
    """Penultimate points for the k-means and, at the intermediate level, statistics for the LDA.

    Args:
        features: The `TeacherFeatures`.
        points: A `PointSample` or `PointCache` of the penultimate features.
    """

    def __init__(self, features, points):
        self.locations = {level: features.locations(level) for level in features.layers}
        self.points = points
        self.lda = None
        if "intermediate" in features.layers:
            channels = features.channels["intermediate"]
            self.lda = LinearDiscriminantAnalysis(features.num_classes, channels)

    def update(self, first, labels, features):
        """Add the features of a batch whose first image is number `first` of the data."""
        locations = self.locations["penultimate"]
        _add_points(self.points, first, labels, features["penultimate"], locations)
        if self.lda is not None:
            labels = np.repeat(labels, self.locations["intermediate"])
            self.lda.update(features["intermediate"], labels)

    def part(self):
        part = copy.copy(self)
        part.points = self.points.part()
        part.lda = None if self.lda is None else LinearDiscriminantAnalysis(*self.lda.means.shape)
        return part

    def state(self):
        return {**self._lda_state(), **self.points.state()}

    def merge(self, state):
        self.points.merge(state)
        if self.lda is not None:
            self.lda.merge(state)

    def result(self):
        points, labels = self.points.sorted()
        return {**self._lda_state(), "points": points, "labels": labels}

    def _lda_state(self):
        return {} if self.lda is None else self.lda.state()


class ProjectedGatherer:
    """Intermediate points in the space of the LDA, sorted by class.

    Args:
        features: The `TeacherFeatures`.
        projection: The `Projection`.
        points: A `PointSample` or `PointCache` of the projected features.
    """

    def __init__(self, features, projection, points):
        self.num_classes = features.num_classes
        self.locations = features.locations("intermediate")
        self.projection = projection
        self.points = points

    def update(self, first, labels, features):
        """Add the features of a batch whose first image is number `first` of the data."""
        projected = self.projection(features["intermediate"])
        _add_points(self.points, first, labels, projected, self.locations)

    def part(self):
        part = copy.copy(self)
        part.points = self.points.part()
        return part

    def state(self):
        return self.points.state()

    def merge(self, state):
        self.points.merge(state)

    def result(self):
        seen = self.points.seen
        points, labels = self.points.sorted(by_class=True)
        sizes = np.bincount(labels, minlength=self.num_classes)
        return {"points": points, "sizes": sizes, "seen": np.array(seen)}


class ScoreGatherer:
    """Counts for the sub-class scores, and how often the LDA itself is right.

    Args:
        features: The `TeacherFeatures`.
        projection: The `Projection`.
        centers: Sub-class centers [K, d].
    """

    def __init__(self, features, projection, centers):
        self.locations = features.locations("intermediate")
        self.projection = projection
        self.scores = SubclassScores(centers, features.num_classes)
        self.right = 0

    def update(self, first, labels, features):
        """Add the features of a batch; the number of its first image does not matter."""
        labels = np.repeat(labels, self.locations)
        self.add(self.projection(features["intermediate"]), labels)

    def add(self, points, labels):
        """Add projected points [N, d] of classes [N]."""
        self.scores.update(points, labels)
        self.right += _right(self.projection, points, labels)

    def part(self):
        return ScorePart(self.locations, self.projection, self.scores.nearest)

    def merge(self, state):
        self.scores.add(state["own"], state["nearest"])
        self.right += int(state["right"])

    def result(self):
        return {"counts": self.scores.counts, "right": np.array(self.right)}


class ScorePart:
    """Sub-classes of the points of some batches, for a `ScoreGatherer` to count.

    Args:
        locations: Locations of an image.
        projection: The `Projection`.
        nearest: The `NearestSubclasses`.
    """

    def __init__(self, locations, projection, nearest):
        self.locations = locations
        self.projection = projection
        self.nearest = nearest
        self.right = 0
        self._pairs = []

    def part(self):
        return ScorePart(self.locations, self.projection, self.nearest)

    def update(self, first, labels, features):
        """Add the features of a batch; the number of its first image does not matter."""
        labels = np.repeat(labels, self.locations)
        points = self.projection(features["intermediate"])
        self._pairs += self.nearest(points, labels)
        self.right += _right(self.projection, points, labels)

    def state(self):
        own, nearest = (np.concatenate(arrays) for arrays in zip(*self._pairs, strict=True))
        return {"own": own, "nearest": nearest, "right": np.array(self.right)}


def _right(projection, points, labels):
    """Number of projected points whose class the LDA gives."""
    return int(np.sum(projection.classify(points) == labels))


def _add_points(points, first, labels, features, locations):
    """Add the features of a batch of images, `locations` for each, to a sample or cache."""
    indices = first * locations + np.arange(len(features))
    points.update(features, np.repeat(labels, locations), indices)
