"""What is gathered from the teacher's features, one pass over the data each.

Each gatherer takes batches (`update`), gives what it holds as arrays (`state`), takes another
shard's (`merge`), and ends in the arrays of its stage (`result`).
"""

import numpy as np

from letkd_keras.prototypes.lda import LinearDiscriminantAnalysis
from letkd_keras.prototypes.subclasses import SubclassScores


class FeatureGatherer:
    """Penultimate points for the k-means and, with an intermediate tap, statistics for the LDA.

    Args:
        features: The `TeacherFeatures`.
        points: A `PointSample` or `PointCache` of the penultimate features.
    """

    def __init__(self, features, points):
        self.features = features
        self.points = points
        self.images = np.zeros(features.num_classes, dtype="int64")
        self.lda = None
        if len(features.taps) > 1:
            self.lda = LinearDiscriminantAnalysis(features.num_classes, features.channels[1])

    def update(self, first, labels, features):
        """Add the features of a batch whose first image is number `first` of the data."""
        self.images += np.bincount(labels, minlength=len(self.images))
        _add_points(self.points, first, labels, features[0], self.features.locations(0))
        if self.lda is not None:
            self.lda.update(features[1], np.repeat(labels, self.features.locations(1)))

    def state(self):
        return {"images": self.images, **self._lda_state(), **self.points.state()}

    def merge(self, state):
        self.images += state["images"]
        self.points.merge(state)
        if self.lda is not None:
            self.lda.merge(state)

    def result(self):
        points, labels = self.points.sorted()
        return {"images": self.images, **self._lda_state(), "points": points, "labels": labels}

    def _lda_state(self):
        return {} if self.lda is None else self.lda.state()


class ProjectedGatherer:
    """Intermediate points in the space of the LDA, sorted by class.

    Args:
        features: The `TeacherFeatures` of the intermediate tap alone.
        projection: The `Projection`.
        points: A `PointSample` or `PointCache` of the projected features.
        expected: Number of points that an earlier pass has seen.
    """

    def __init__(self, features, projection, points, expected):
        self.features = features
        self.projection = projection
        self.points = points
        self.expected = expected

    def update(self, first, labels, features):
        """Add the features of a batch whose first image is number `first` of the data."""
        projected = self.projection(features[0])
        _add_points(self.points, first, labels, projected, self.features.locations(0))

    def state(self):
        return self.points.state()

    def merge(self, state):
        self.points.merge(state)

    def result(self):
        seen = self.points.seen
        if seen != self.expected:
            raise ValueError(
                "`data` must give the same images at each pass. "
                f"Received: {seen} feature vectors, {self.expected} before"
            )
        points, labels = self.points.sorted(by_class=True)
        sizes = np.bincount(labels, minlength=self.features.num_classes)
        return {"points": points, "sizes": sizes, "seen": np.array(seen)}


class ScoreGatherer:
    """Counts for the sub-class scores, and how often the LDA itself is right.

    Args:
        features: The `TeacherFeatures` of the intermediate tap alone.
        projection: The `Projection`.
        centers: Sub-class centres [K, d].
    """

    def __init__(self, features, projection, centers):
        self.features = features
        self.projection = projection
        self.scores = SubclassScores(centers, len(projection.class_means))
        self.right = 0

    def update(self, first, labels, features):
        """Add the features of a batch; the number of its first image does not matter."""
        labels = np.repeat(labels, self.features.locations(0))
        self.add(self.projection(features[0]), labels)

    def add(self, points, labels):
        """Add projected points [N, d] of classes [N]."""
        self.scores.update(points, labels)
        self.right += int(np.sum(self.projection.classify(points) == labels))

    def state(self):
        return {"counts": self.scores.counts, "right": np.array(self.right)}

    def merge(self, state):
        self.scores.merge(state["counts"])
        self.right += int(state["right"])

    def result(self):
        return self.state()


def _add_points(sample, first, labels, points, locations):
    """Add the points of a batch of images, `locations` an image, to a sample or cache."""
    indices = first * locations + np.arange(len(points))
    sample.update(points, np.repeat(labels, locations), indices)
