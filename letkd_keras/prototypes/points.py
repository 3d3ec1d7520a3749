"""The points that a k-means takes: a sample of them in memory, or all of them in a file."""

from functools import partial

import numpy as np

from letkd_keras import memory_mapped

# Bytes held for a point beside its coordinates: label, index and key.
_BYTES_BESIDE = 4 + 8 + 8

# Keys that are computed at a time.
_KEYS = 2**20

# Type of the labels in a cache.
_LABEL = np.dtype("int32")

# What to do where the disk has no room for a cache.
NO_ROOM = (
    "Use the feature cache float16, another folder, or no feature cache (each k-means then takes a "
    "sample)."
)


def points_of_batch(first, labels, points, seed=0, largest_key=None):
    """The points of a batch of images, as arguments of `update`.

    Args:
        first: Number of the first image in the whole data set.
        labels: Classes of the images, integers [B].
        points: [N, C], image by image, as many of each.
        seed: Seed of the keys.
        largest_key: Largest key of a point that is not left out; `None` for all points.
    """
    indices = first * _locations(points, labels) + np.arange(len(points))
    arrays = {"points": points, "labels": labels_of(points, labels), "indices": indices}
    if largest_key is not None:
        kept = _keys(seed, indices) <= largest_key
        arrays = {name: array[kept] for name, array in arrays.items()}
    return arrays


def labels_of(points, labels):
    """The class of each point [N, C] of images of classes [B], which have as many points each."""
    return np.repeat(labels, _locations(points, labels))


def _locations(points, labels):
    return len(points) // max(len(labels), 1)


class PointSample:
    """All points while they fit, a uniform sample of them once they do not.

    Each point has a pseudo-random key computed from the seed and its index in the data set; the
    points of lowest key are kept. So the sample depends neither on the order in which points come
    nor on how they are split into batches.

    Args:
        capacity: Largest number of points held, at least 1.
        channels: Number of channels C.
        seed: Seed of the keys.
        total: Number of points of the whole data set, where it is known. `of_batch` then leaves out
            those that the sample will not keep.

    Attributes:
        of_batch: `points_of_batch` with the seed and the largest key of this sample.
    """

    def __init__(self, capacity, channels, seed=0, total=None):
        self.capacity = capacity
        self.seed = seed
        largest_key = None
        if total is not None and total > capacity:
            largest_key = _largest_key(seed, total, capacity)
        self.of_batch = partial(points_of_batch, seed=seed, largest_key=largest_key)
        self.size = 0
        # Memory is taken by the system as rows are written, not here.
        try:
            self._points = np.empty((capacity, channels), dtype="float32")
        except MemoryError as error:
            raise ValueError(
                f"There is no memory for the {4 * capacity * channels:,} bytes of {capacity:,} "
                "feature vectors: give a smaller `memory`, or a `feature_cache` and a `workdir`."
            ) from error
        self._labels = np.empty(capacity, dtype="int32")
        self._indices = np.empty(capacity, dtype="int64")
        self._keys = np.empty(capacity, dtype="uint64")

    @staticmethod
    def fitting(memory, channels):
        """Number of points that a sample can hold in `memory` bytes, at least one."""
        return max(1, memory // (4 * channels + _BYTES_BESIDE))

    def update(self, points, labels, indices):
        """Add points.

        Args:
            points: [N, C].
            labels: Their classes, integers [N].
            indices: Their indices in the whole data set, integers [N], never the same twice.
        """
        keys = _keys(self.seed, indices)
        room = min(self.capacity - self.size, len(points))
        rows = np.arange(self.size, self.size + room)
        self.size += room
        self._write(rows, points[:room], labels[:room], indices[:room], keys[:room])
        if room < len(points):
            self._replace(points[room:], labels[room:], indices[room:], keys[room:])

    def _replace(self, points, labels, indices, keys):
        """Let points of lower key take the rows of the highest keys held."""
        candidates = np.flatnonzero(keys < self._keys.max())
        everything = np.concatenate([self._keys, keys[candidates]])
        dropped = np.argpartition(everything, self.capacity - 1)[self.capacity :]
        rows = dropped[dropped < self.capacity]
        entering = np.ones(len(candidates), dtype=bool)
        entering[dropped[dropped >= self.capacity] - self.capacity] = False
        entering = candidates[entering]
        self._write(rows, points[entering], labels[entering], indices[entering], keys[entering])

    def _write(self, rows, points, labels, indices, keys):
        self._points[rows] = points
        self._labels[rows] = labels
        self._indices[rows] = indices
        self._keys[rows] = keys

    def sorted(self, by_class=False):
        """The points held, in the order of their indices, or of classes and then indices.

        The sample gives its memory away: nothing can be added afterwards.

        Args:
            by_class: Whether to sort by class first.

        Returns:
            `(points, labels)`, float32 [N, C] and int32 [N].
        """
        kept = slice(0, self.size)
        keys = (self._indices[kept],) + ((self._labels[kept],) if by_class else ())
        order = np.lexsort(keys)
        points, labels = self._points[kept], self._labels[kept][order]
        if (order[1:] < order[:-1]).any():
            # One channel at a time: a sorted copy would take the memory a second time.
            for channel in range(points.shape[1]):
                points[:, channel] = points[order, channel]
        self._points = self._labels = self._indices = self._keys = None
        return points, labels


def _keys(seed, indices):
    """SplitMix64 of each index, its stream chosen by the seed, uint64 [N]."""
    keys = np.asarray(indices).astype("uint64")
    keys += np.random.default_rng(seed).integers(2**64, dtype="uint64", size=1)
    keys *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys ^= keys >> np.uint64(shift)
        keys *= np.uint64(factor)
    return keys ^ (keys >> np.uint64(31))


def _largest_key(seed, total, capacity):
    """The largest of the lowest `capacity` keys of the indices 0 to total - 1."""
    lowest = np.empty(0, dtype="uint64")
    for start in range(0, total, _KEYS):
        keys = _keys(seed, np.arange(start, min(start + _KEYS, total)))
        lowest = np.concatenate([lowest, keys])
        if len(lowest) > capacity:
            lowest = np.partition(lowest, capacity - 1)[:capacity]
    return lowest.max()


def cache_bytes(points, channels, dtype):
    """Bytes on disk of a `PointCache` of so many points, their labels with them."""
    return points * (channels * np.dtype(dtype).itemsize + _LABEL.itemsize)


class PointCache:
    """All points, in a memory-mapped file, sorted as they are written.

    Same methods as `PointSample`, without a limit but the disk's.

    Args:
        folder: Folder of `points.npy` and `labels.npy`.
        sizes: Number of points of each class, to sort by class; or one number, the number of all
            points, to keep the order of their indices.
        channels: Number of channels C.
        dtype: Type in the file, "float32" or "float16".

    Raises:
        OSError: If the disk has no room for the file.
    """

    def __init__(self, folder, sizes, channels, dtype="float32"):
        sizes = np.asarray(sizes)
        self.of_batch = points_of_batch
        self._next_rows = None
        if sizes.ndim:
            self._next_rows = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        shape = (int(sizes.sum()), channels)
        self._points = memory_mapped.create(folder / "points.npy", shape, dtype, NO_ROOM)
        self._labels = memory_mapped.create(folder / "labels.npy", shape[:1], _LABEL, NO_ROOM)

    def update(self, points, labels, indices):
        """Add points [N, C] of classes [N] and indices [N] in the whole data set."""
        rows = indices if self._next_rows is None else self._rows_by_class(labels)
        self._points[rows] = points
        self._labels[rows] = labels
        memory_mapped.release(self._points)
        memory_mapped.release(self._labels)

    def _rows_by_class(self, labels):
        order = np.argsort(labels, kind="stable")
        classes, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
        rank = np.arange(len(labels)) - np.repeat(first, counts)
        rows = np.empty(len(labels), dtype="int64")
        rows[order] = self._next_rows[labels[order]] + rank
        self._next_rows[classes] += counts
        return rows

    def sorted(self, by_class=False):
        """`(points, labels)` in the order given when the cache was made."""
        return self._points, self._labels
