import numpy as np

# Bytes held for a point beside its coordinates: label, index and key.
_BYTES_BESIDE = 4 + 8 + 8


class PointSample:
    """All points while they fit, a uniform sample of them once they do not.

    Each point has a pseudo-random key computed from the seed and its index in the data set; the
    points of lowest key are kept. So the sample depends neither on the order in which points come
    nor on how they are split into batches and shards, and the sample of two merged shards is that
    of one pass.

    Args:
        capacity: Largest number of points held.
        channels: Number of channels C.
        seed: Seed of the keys.

    Attributes:
        seen: Number of points added so far.
    """

    def __init__(self, capacity, channels, seed=0):
        if capacity < 1:
            raise ValueError(f"`capacity` must be at least 1. Received: capacity={capacity}")
        self.capacity = capacity
        self.seed = seed
        self.seen = 0
        self.size = 0
        # Memory is taken by the system as rows are written, not here.
        self._points = np.empty((capacity, channels), dtype="float32")
        self._labels = np.empty(capacity, dtype="int32")
        self._indices = np.empty(capacity, dtype="int64")
        self._keys = np.empty(capacity, dtype="uint64")

    @classmethod
    def within(cls, memory, channels, seed=0):
        """A sample of as many points as fit into `memory` bytes, at least one."""
        return cls(max(1, memory // (4 * channels + _BYTES_BESIDE)), channels, seed)

    def update(self, points, labels, indices):
        """Add points.

        Args:
            points: [N, C].
            labels: Their classes, integers [N].
            indices: Their indices in the whole data set, integers [N], never the same twice.
        """
        self.seen += len(points)
        keys = _keys(self.seed, indices)
        room = min(self.capacity - self.size, len(points))
        rows = np.arange(self.size, self.size + room)
        self.size += room
        self._write(rows, points[:room], labels[:room], indices[:room], keys[:room])
        if room < len(points):
            self._replace(points[room:], labels[room:], indices[room:], keys[room:])

    def state(self):
        """What `merge` needs, as a dictionary of arrays."""
        kept = slice(0, self.size)
        return {
            "points": self._points[kept],
            "labels": self._labels[kept],
            "indices": self._indices[kept],
            "seen": np.array(self.seen),
        }

    def merge(self, state):
        """Add the `state()` of another shard's sample, of the same seed and capacity."""
        seen = self.seen + int(state["seen"])
        self.update(state["points"], state["labels"], state["indices"])
        self.seen = seen

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
