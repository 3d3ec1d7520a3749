import numpy as np

from letkd_keras import memory_mapped

_LABEL = np.dtype("int32")
NO_ROOM = (
    "Use cache='float16', another workdir, or no cache (k-means then runs on what fits into "
    "`memory`)."
)


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
        self.seen = 0
        self._next_rows = None
        if sizes.ndim:
            self._next_rows = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        shape = (int(sizes.sum()), channels)
        self._points = memory_mapped.create(folder / "points.npy", shape, dtype, NO_ROOM)
        self._labels = memory_mapped.create(folder / "labels.npy", shape[:1], _LABEL, NO_ROOM)

    def update(self, points, labels, indices):
        """Add points [N, C] of classes [N] and indices [N] in the whole data set."""
        self.seen += len(points)
        if self.seen > len(self._points):
            raise ValueError(
                f"`data` must give the same images at each pass. Received: more than the "
                f"{len(self._points)} feature vectors counted before"
            )
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
        if by_class != (self._next_rows is not None):
            raise ValueError(f"The cache is sorted another way. Received: by_class={by_class}")
        if self.seen < len(self._points):
            raise ValueError(
                f"`data` must give the same images at each pass. Received: {self.seen} feature "
                f"vectors, {len(self._points)} before"
            )
        return self._points, self._labels
