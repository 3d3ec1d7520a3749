from itertools import pairwise

import numpy as np

from letkd_keras.prototypes.kmeans import kmeans

# Bytes of one block of the matrix of distances of points to all sub-class centres.
_BLOCK_BYTES = 32 << 20


def fit_subclasses(points, labels, num_classes, subclasses, iterations=20, seed=0, on_class=None):
    """Cluster each class's points by themselves (method, intermediate supervision, step 2).

    Args:
        points: float32 [N, d], sorted by class.
        labels: Their classes, integers [N] in ascending order.
        num_classes: Number of classes.
        subclasses: Number of clusters of each class.
        iterations: Iterations of each k-means.
        seed: Seed; each class has its own stream of it.
        on_class: Called as `on_class(label)` after each class.

    Returns:
        Centres, float32 [num_classes * subclasses, d], class by class.

    Raises:
        ValueError: If a class has fewer points than `subclasses`.
    """
    bounds = np.searchsorted(labels, np.arange(num_classes + 1))
    check_class_sizes(np.diff(bounds), subclasses)
    centers = np.empty((num_classes, subclasses, points.shape[1]), dtype="float32")
    for label, (start, stop) in enumerate(pairwise(bounds)):
        centers[label] = kmeans(points[start:stop], subclasses, iterations, seed=[seed, label])
        if on_class is not None:
            on_class(label)
    return centers.reshape(-1, points.shape[1])


def check_class_sizes(sizes, subclasses):
    """Raise a `ValueError` naming the classes with fewer points than `subclasses`."""
    short = np.flatnonzero(np.asarray(sizes) < subclasses)
    if len(short):
        listed = ", ".join(f"{label} ({sizes[label]})" for label in short[:10])
        more = f" and {len(short) - 10} more" if len(short) > 10 else ""
        raise ValueError(
            f"Every class needs at least subclasses={subclasses} feature vectors. "
            f"Received: fewer for class {listed}{more}"
        )


class SubclassScores:
    """What the teacher confuses each sub-class with (method, intermediate supervision, step 3).

    Counts, for the points of each sub-class (each point belongs to the nearest one of its own
    class), which sub-class of any class is nearest.

    Args:
        centers: Sub-class centres [K, d], class by class.
        num_classes: Number of classes; divides K. `None` if members are always given.

    Attributes:
        counts: int64 [K, K], rows by own sub-class, columns by nearest.
    """

    def __init__(self, centers, num_classes=None):
        self.centers = np.asarray(centers)
        self.num_classes = num_classes
        self.counts = np.zeros((len(centers), len(centers)), dtype="int64")
        self._half_squares = np.sum(self.centers**2, axis=1) / 2

    def update(self, features, labels=None, members=None):
        """Add points, given their classes or, if known, their sub-classes.

        Args:
            features: [N, d].
            labels: Classes, integers [N].
            members: Sub-classes, integers [N], instead of `labels`.
        """
        rows = max(256, _BLOCK_BYTES // (4 * len(self.centers)))
        for start in range(0, len(features), rows):
            block = slice(start, start + rows)
            # Distances up to a term of the point alone, halved: the order is the same.
            distances = self._half_squares - features[block] @ self.centers.T
            if members is None:
                own = self._own_subclass(distances, labels[block])
            else:
                own = members[block]
            np.add.at(self.counts, (own, distances.argmin(axis=1)), 1)

    def _own_subclass(self, distances, labels):
        by_class = distances.reshape(len(labels), self.num_classes, -1)
        own_class = by_class[np.arange(len(labels)), labels]
        return labels * by_class.shape[2] + own_class.argmin(axis=1)

    def merge(self, other):
        """Add the counts of another shard of the points."""
        self.counts += other.counts

    def result(self):
        """Scores [K, K] of the centres' type, rows summing to 1.

        A sub-class without points is confused with itself: its own centre is nearest to it.
        """
        sizes = self.counts.sum(axis=1, keepdims=True)
        scores = (self.counts / np.maximum(sizes, 1)).astype(self.centers.dtype)
        empty = np.flatnonzero(sizes == 0)
        scores[empty, empty] = 1
        return scores


def subclass_scores(features, members, centers):
    """Sub-class scores of points whose own sub-class is known.

    Args:
        features: [N, d].
        members: Own sub-class of each point, integers [N].
        centers: Sub-class centres [K, d].

    Returns:
        Scores [K, K]: row s is the histogram of the nearest centres of the members of s,
        normalised to 1.
    """
    scores = SubclassScores(centers)
    scores.update(features, members=members)
    return scores.result()
