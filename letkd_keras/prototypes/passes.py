"""Passes of a teacher over the data, and what each of them gathers.

A gatherer has a function `summarize(first, labels, features)` of a batch: the number of its first
image, the labels of its images and their features. The function is small and can be sent to other
processes. It returns a dictionary of arrays. The gatherer takes these in the order of the batches
(`add`) and ends in the arrays of its step (`result`).
"""

import logging
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from rich.progress import Progress

from letkd_keras.prototypes.engines import LocalEngine, RayEngine
from letkd_keras.prototypes.labelled_images import LabelledImages
from letkd_keras.prototypes.lda import LinearDiscriminantAnalysis, Projection, lda_components
from letkd_keras.prototypes.points import PointCache, PointSample, cache_bytes, labels_of
from letkd_keras.prototypes.steps import MemorySteps, WorkFolder
from letkd_keras.prototypes.subclasses import NearestSubclasses
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
        images: The `LabelledImages`.
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
    images: LabelledImages
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

    def total(self, level):
        """Number of points of all images at a level, once the pass `features` is finished."""
        images = len(self.steps.load("features")["image_labels"])
        return images * self.features.locations(level)

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
        self.points = points
        self.lda = None
        if "intermediate" in features.layers:
            channels = features.channels["intermediate"]
            self.lda = LinearDiscriminantAnalysis(features.num_classes, channels)
        self.summarize = partial(_summary_of_features, points.of_batch, features.num_classes)

    def add(self, summary):
        """Add the summary of the next batch."""
        self.points.update(summary["points"], summary["labels"], summary["indices"])
        if self.lda is not None:
            self.lda.merge(summary)

    def result(self):
        points, labels = self.points.sorted()
        statistics = {} if self.lda is None else self.lda.state()
        return {**statistics, "points": points, "labels": labels}


def _summary_of_features(points_of_batch, num_classes, first, labels, features):
    summary = points_of_batch(first, labels, features["penultimate"])
    if "intermediate" in features:
        points = features["intermediate"]
        lda = LinearDiscriminantAnalysis(num_classes, points.shape[1])
        lda.update(points, labels_of(points, labels))
        summary |= lda.state()
    return summary


class ProjectedGatherer:
    """Intermediate points in the space of the LDA, sorted by class.

    Args:
        features: The `TeacherFeatures`.
        projection: The `Projection`.
        points: A `PointSample` or `PointCache` of the projected features.
    """

    def __init__(self, features, projection, points):
        self.num_classes = features.num_classes
        self.points = points
        self.summarize = partial(_summary_of_projected, points.of_batch, projection)

    def add(self, summary):
        """Add the summary of the next batch."""
        self.points.update(**summary)

    def result(self):
        points, labels = self.points.sorted(by_class=True)
        return {"points": points, "sizes": np.bincount(labels, minlength=self.num_classes)}


def _summary_of_projected(points_of_batch, projection, first, labels, features):
    return points_of_batch(first, labels, projection(features["intermediate"]))


class ScoreGatherer:
    """What the teacher confuses each sub-class with (method, intermediate supervision, step 3).

    Counts, for the points of each sub-class, which sub-class of any class is nearest, and how often
    the LDA itself is right.

    Args:
        features: The `TeacherFeatures`.
        projection: The `Projection`.
        centers: Sub-class centers [K, d].
    """

    def __init__(self, features, projection, centers):
        self.counts = np.zeros((len(centers), len(centers)), dtype="int64")
        self.right = 0
        nearest = NearestSubclasses(centers, features.num_classes)
        self.summarize = partial(_summary_of_scores, projection, nearest)
        self.summarize_points = partial(_summary_of_points, projection, nearest)

    def add(self, summary):
        """Add the summary of the next batch, or of the next projected points."""
        np.add.at(self.counts, (summary["own"], summary["nearest"]), 1)
        self.right += int(summary["right"])

    def result(self):
        return {"counts": self.counts, "right": np.array(self.right)}


def _summary_of_scores(projection, nearest_subclasses, first, labels, features):
    points = projection(features["intermediate"])
    return _summary_of_points(projection, nearest_subclasses, points, labels_of(points, labels))


def _summary_of_points(projection, nearest_subclasses, points, labels):
    own, nearest = nearest_subclasses(points, labels)
    right = np.sum(projection.classify(points) == labels)
    return {"own": own, "nearest": nearest, "right": right}
