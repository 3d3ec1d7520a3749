import hashlib
import math
from pathlib import Path

import keras
import numpy as np

from letkd_keras.data.one_hot import classes_of


class LabelledImages:
    """Batches of images and integer labels, the same ones as often as wanted.

    Args:
        data: `(images, labels)` arrays, or anything that can be iterated over repeatedly and yields
            `(images, labels, ...)` batches, such as a batched `tf.data.Dataset`. Further entries of
            a batch (sample weights) are ignored.
        num_classes: Labels must be in `[0, num_classes)`, or one-hot or mixed of shape
            [B, num_classes], whose largest entry is the class.
        batch_size: Size of the batches taken from arrays.
        preprocess: Function applied to each batch of images, or `None`.

    Attributes:
        labels: Labels of all images, int32 [N], or `None` where they are not known before a pass.
        first_size: Number of images of the first batch, once `check_numbered` was called.

    Raises:
        ValueError: If `data` is not of that form, or has no end, or can be iterated over only once.
    """

    def __init__(self, data, num_classes, batch_size=256, preprocess=None):
        self.data = data
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.preprocess = preprocess
        self.labels = None
        self.first_size = self._counted = None
        self._arrays = _arrays(data)
        if self._arrays is None:
            _check_batches(data)
            return
        images, labels = self._arrays
        if len(images) != len(labels):
            raise ValueError(
                "`data` must have one label per image. "
                f"Received: {len(images)} images and {len(labels)} labels"
            )
        self.labels = _checked_labels(labels, num_classes)

    @property
    def num_images(self):
        """Number of images; `None` where neither a pass nor `check_numbered` has counted them."""
        return self._counted if self.labels is None else len(self.labels)

    def per_class(self):
        """Number of images of each class, int64 [num_classes], once the labels are known."""
        return np.bincount(self.labels, minlength=self.num_classes)

    def expect(self, labels):
        """Say what an earlier pass, perhaps of another process, has seen.

        Raises:
            ValueError: If the labels are known and are others.
        """
        if self.labels is None:
            self.labels = np.array(labels)
        self._check_same(0, labels)
        self._check_end(len(labels))

    def image_shape(self):
        """Shape of the first image, as the teacher takes it.

        Raises:
            ValueError: If there is no image.
        """
        return tuple(self._first_batch()[0].shape[1:])

    def digest(self):
        """SHA-256 of the first batch of images, as the teacher takes it, and of its labels.

        Other images and other pixel scales have another one.

        Raises:
            ValueError: If there is no image.
        """
        images, labels = self._first_batch()
        images = np.ascontiguousarray(keras.ops.convert_to_numpy(images))
        digest = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
        digest.update(images.tobytes())
        digest.update(labels.tobytes())
        return digest.hexdigest()

    def _first_batch(self):
        for images, labels in self._batches():
            return self._prepared(images, 0), _checked_labels(labels, self.num_classes)
        raise ValueError("`data` must have at least one image. Received: none")

    def read_labels(self):
        """Make the labels known, by a pass over the data if need be."""
        if self.labels is None:
            labels = [_checked_labels(batch[1], self.num_classes) for batch in self._batches()]
            self.labels = np.concatenate([np.zeros(0, "int32"), *labels])

    def batches(self):
        """One pass over the data.

        Yields:
            `(first, images, labels)`: the number, in the whole data, of the batch's first image,
            its images and its labels, int32 [B].

        Raises:
            ValueError: If labels are not integers in range, differ from those of an earlier pass,
                or an image is not finite.
        """
        for first, images, labels in self.follow(self._batches()):
            yield first, self._prepared(images, first), labels

    def num_batches(self):
        """Number of batches, once `check_numbered` was called."""
        return math.ceil(len(self.labels) / self.batch_size) if self._arrays else len(self.data)

    def numbered_batches(self, start, stop):
        """Some batches, those with the numbers from `start` to before `stop`.

        Yields:
            As `batches` does.

        Raises:
            ValueError: As `batches` does, or if a batch before the last one has another size than
                the first. Labels are not compared with those of an earlier pass.
        """
        for number in range(start, stop):
            if self._arrays is not None:
                rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
                images, labels, first = self._arrays[0][rows], self.labels[rows], rows.start
            else:
                images, labels = _entries(self.data[number])
                first = number * self.first_size
                if len(labels) != self.first_size and number + 1 < len(self.data):
                    raise ValueError(
                        '`data` must have batches of one size with engine="ray", except for the '
                        f"last one. Received: a batch of {len(labels)} images, the first one has "
                        f"{self.first_size}"
                    )
            yield first, self._prepared(images, first), _checked_labels(labels, self.num_classes)

    def check_numbered(self):
        """Refuse data whose batches cannot be read by their numbers, in any order.

        All batches must have the same size, except for the last one. `numbered_batches` refuses
        others.

        Raises:
            ValueError: If the data are not of that kind.
        """
        if self._arrays is None:
            if not (hasattr(self.data, "__getitem__") and hasattr(self.data, "__len__")):
                raise ValueError(
                    '`data` must be a pair of arrays with engine="ray", or have a length and '
                    "batches by number, such as letkd_keras.data.NumberedBatches and "
                    f"keras.utils.PyDataset. Received: data of type {type(self.data).__name__}"
                )
            batches = len(self.data)
            self.first_size, last = (
                len(_entries(self.data[number])[1]) if batches else 0 for number in (0, batches - 1)
            )
            self._counted = self.first_size * (batches - 1) + last

    def follow(self, batches):
        """Check the labels of one pass over the data.

        Args:
            batches: Iterable of `(content, labels)` of all batches, in their order.

        Yields:
            `(first, content, labels)` as `batches` does, with any content in place of the images.

        Raises:
            ValueError: If labels are not integers in range or differ from those of an earlier pass.
        """
        first, seen = 0, [np.zeros(0, "int32")]
        for content, labels in batches:
            labels = _checked_labels(labels, self.num_classes)
            self._check_same(first, labels)
            yield first, content, labels
            first += len(labels)
            seen.append(labels)
        if self.labels is None:
            self.labels = np.concatenate(seen)
        self._check_end(first)

    def _batches(self):
        if self._arrays is not None:
            images = self._arrays[0]
            for start in range(0, len(images), self.batch_size):
                batch = slice(start, start + self.batch_size)
                yield images[batch], self.labels[batch]
            return
        for batch in self.data:
            yield _entries(batch)

    def _prepared(self, images, first):
        if self.preprocess is not None:
            images = self.preprocess(images)
        array = keras.ops.convert_to_numpy(images)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            raise ValueError(
                "`data` must have finite images. Received: NaN or infinite values in image "
                f"{first + int(bad.argmax())}"
            )
        return images

    def _check_same(self, first, labels):
        if self.labels is None:
            return
        before = self.labels[first : first + len(labels)]
        if len(before) < len(labels):
            self._check_end(first + len(labels))
        if not np.array_equal(before, labels):
            other = first + int((before != labels).argmax())
            raise ValueError(
                "`data` must give the same images in the same order at each pass, without "
                f"shuffling. Received: image {other} of class {labels[other - first]}, which was "
                f"of class {before[other - first]} before"
            )

    def _check_end(self, images):
        if images != len(self.labels):
            raise ValueError(
                "`data` must give the same images in the same order at each pass. "
                f"Received: {images} images, {len(self.labels)} before"
            )


def _entries(batch):
    """Images and labels of a batch."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(
            "`data` must yield batches (images, labels). "
            f"Received: a batch of {type(batch).__name__}"
        )
    return batch[0], batch[1]


def _arrays(data):
    """`data` where it is a pair of arrays rather than a sequence of two batches."""
    if isinstance(data, tuple) and len(data) == 2 and all(hasattr(a, "shape") for a in data):
        return data
    return None


def _check_batches(data):
    expected = "`data` must be a pair of arrays or a set of batches such as a tf.data.Dataset"
    if isinstance(data, (str, Path)):
        raise ValueError(
            f"{expected}, not a path: open it with letkd_keras.data first. Received: data={data!r}"
        )
    if hasattr(data, "shape") or not hasattr(data, "__iter__"):
        raise ValueError(f"{expected}. Received: data of type {type(data).__name__}")
    if iter(data) is data:
        raise ValueError(
            f"{expected}, which allows several passes; a generator is empty after the first. "
            f"Received: data={data!r}"
        )
    # tf.data.INFINITE_CARDINALITY
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise ValueError(
            "`data` must come to an end: remove `.repeat()`. Received: an endless data set"
        )


def _checked_labels(labels, num_classes):
    labels = classes_of(labels, num_classes)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "Labels must be of an integer type and of shape [B], or one-hot of shape "
            f"[B, {num_classes}], and a data set must be batched. "
            f"Received: labels of shape {labels.shape} and type {labels.dtype}"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"Labels must lie in [0, {num_classes}), the teacher's classes. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels.astype("int32")
