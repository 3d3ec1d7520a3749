import numpy as np


class LabelledImages:
    """Batches of images and integer labels, as often as wanted.

    Args:
        data: `(images, labels)` arrays, or anything that can be iterated over repeatedly and yields
            `(images, labels, ...)` batches, such as a batched `tf.data.Dataset`. Further entries of
            a batch (sample weights) are ignored.
        num_classes: Labels must be in `[0, num_classes)`.
        batch_size: Size of the batches taken from arrays.
        preprocess: Function applied to each batch of images, or `None`.

    Attributes:
        images: Number of images, or `None` where it is not known before a pass.
        images_per_class: Their number in each class, [num_classes], known with it.

    Raises:
        ValueError: If the data can be iterated over only once, or is empty, or labels are not
            integers in range.
    """

    def __init__(self, data, num_classes, batch_size=256, preprocess=None):
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.arrays = _arrays(data)
        self.data = data
        self.preprocess = preprocess or (lambda images: images)
        self.images = self.images_per_class = None
        if self.arrays is not None:
            images, labels = self.arrays
            if len(images) != len(labels):
                raise ValueError(
                    "`data` must have one label an image. "
                    f"Received: {len(images)} images and {len(labels)} labels"
                )
            self.labels = _check_labels(labels, num_classes)
            self.images = len(images)
            self.images_per_class = np.bincount(self.labels, minlength=num_classes)
        elif not hasattr(data, "__iter__") or iter(data) is data:
            raise ValueError(
                "`data` must be a pair of arrays or allow several passes, like a tf.data.Dataset; "
                f"a generator is empty after the first. Received: data={data!r}"
            )

    def batches(self, shard=(0, 1)):
        """Batches dealt to one of several shards in turn.

        Args:
            shard: Which shard, from 0, and of how many.

        Yields:
            `(first, images, labels)`: the number, in the whole data, of the batch's first image,
            its images, or `None` for a batch of another shard, and its labels, int64 [B].
        """
        first = 0
        for number, (images, labels) in enumerate(self._batches()):
            own = number % shard[1] == shard[0]
            yield first, self.preprocess(images) if own else None, labels
            first += len(labels)

    def _batches(self):
        if self.arrays is None:
            for images, labels, *_ in self.data:
                yield images, _check_labels(labels, self.num_classes)
            return
        images = self.arrays[0]
        for start in range(0, self.images, self.batch_size):
            batch = slice(start, start + self.batch_size)
            yield images[batch], self.labels[batch]

    def count(self):
        """Make the numbers of images known, by a pass over the data if need be."""
        if self.images is None:
            per_class = np.zeros(self.num_classes, dtype="int64")
            for _, labels, *_ in self.data:
                labels = _check_labels(labels, self.num_classes)
                per_class += np.bincount(labels, minlength=self.num_classes)
            self.images, self.images_per_class = int(per_class.sum()), per_class


def _arrays(data):
    """`data` where it is a pair of arrays rather than a sequence of two batches."""
    if isinstance(data, tuple) and len(data) == 2 and all(hasattr(a, "shape") for a in data):
        return data
    return None


def _check_labels(labels, num_classes):
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "Labels must be integers [B], not one-hot. "
            f"Received: labels of shape {labels.shape} and type {labels.dtype}"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"Labels must lie in [0, {num_classes}), the teacher's classes. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels.astype("int64")
