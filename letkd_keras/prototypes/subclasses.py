from itertools import pairwise

import numpy as np

from letkd_keras.prototypes.kmeans import kmeans, one_thread

# Bytes of one block of the matrix of distances of points to all sub-class centers. Smaller blocks
# cost more in waiting for the threads of the product than they save in memory traffic.
_BLOCK_BYTES = 16 << 20


def fit_subclasses(points, sizes, subclasses, iterations=20, seed=0, on_class=None):
    """Cluster each class's points by themselves (method, intermediate supervision, step 2).

    Args:
        points: float32 [N, d], sorted by class.
        sizes: Number of points of each class, integers [num_classes].
        subclasses: Number of clusters of each class.
        iterations: Iterations of each k-means.
        seed: Seed; each class has its own stream of it.
        on_class: Called as `on_class(label)` after each class.

    Returns:
        Centers, float32 [num_classes * subclasses, d], class by class.

    Raises:
        ValueError: If a class has fewer points than `subclasses`.
    """
    check_class_sizes(sizes, subclasses)
    centers = np.empty((len(sizes), subclasses, points.shape[1]), dtype="float32")
    # faiss.Kmeans would be faster, but takes a class's points as float32 in memory, all of them.
    # One thread: with few centers, several spend their time waiting for each other.
    with one_thread():
        for label, (start, stop) in enumerate(class_bounds(sizes)):
            centers[label] = kmeans(points[start:stop], subclasses, iterations, seed=[seed, label])
            if on_class is not None:
                on_class(label)
    return centers.reshape(-1, points.shape[1])


def class_bounds(sizes):
    """`(start, stop)` of each class in points sorted by class."""
    return list(pairwise(np.concatenate([[0], np.cumsum(sizes)])))


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


class NearestSubclasses:
    """The sub-class of each point, and the one that is nearest to it among all classes.

    Each point belongs to the nearest sub-class of its own class.

    Args:
        centers: Sub-class centers [K, d], class by class.
        num_classes: Number of classes; divides K.
    """

    def __init__(self, centers, num_classes):
        self.centers = np.asarray(centers)
        self.num_classes = num_classes
        # Distances up to a term of the point alone, halved, are one product of the point and a 1
        # with these; their order is that of the distances.
        squares = np.sum(self.centers**2, axis=1) / 2
        self._factors = np.vstack([-self.centers.T, squares])

    def __call__(self, features, labels):
        """Assign points, given their classes.

        Args:
            features: [N, d].
            labels: Classes, integers [N].

        Returns:
            `(own, nearest)`: sub-classes, integers [N].
        """
        rows = max(128, _BLOCK_BYTES // (4 * len(self.centers)))
        dtype = np.result_type(features, self._factors)
        extended = np.ones((min(rows, len(features)), self.centers.shape[1] + 1), dtype)
        products = np.empty((len(extended), len(self.centers)), dtype)
        own, nearest = np.empty((2, len(features)), "int64")
        for start in range(0, len(features), rows):
            rows_of_block = slice(start, start + rows)
            part = features[rows_of_block]
            block = extended[: len(part)]
            block[:, :-1] = part
            distances = np.matmul(block, self._factors, out=products[: len(part)])
            own[rows_of_block] = self._own_subclass(distances, labels[rows_of_block])
            nearest[rows_of_block] = distances.argmin(axis=1)
        return own, nearest

    def _own_subclass(self, distances, labels):
        by_class = distances.reshape(len(labels), self.num_classes, -1)
        own_class = by_class[np.arange(len(labels)), labels]
        return labels * by_class.shape[2] + own_class.argmin(axis=1)


def normalized_scores(counts):
    """Counts [K, K] with each row divided by its sum, float64.

    A sub-class without points is confused with itself: its own center is nearest to it.
    """
    sizes = counts.sum(axis=1, keepdims=True)
    scores = counts / np.maximum(sizes, 1)
    empty = np.flatnonzero(sizes == 0)
    scores[empty, empty] = 1
    return scores
