import hashlib
import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import keras
import numpy as np

from letkd_keras import memory_mapped
from letkd_keras.data import array_batches, jax_batches
from letkd_keras.data.dataset import Dataset
from letkd_keras.data.selection import find_split, fraction_of, held_out, stratified

# Label of an image that has none, here and in the batches of a training.
UNLABELLED = -1


@dataclass(frozen=True)
class ImageData(Dataset):
    """A classification data set in memory, without augmentation and normalization.

    Attributes:
        name: Name of the data set, for manifests and reports.
        x_train: Training images, uint8 [N, H, W, C].
        y_train: Their classes, integers [N] that become int64; -1 for images without a label.
        x_test: Test images, uint8 [M, H, W, C].
        y_test: Their classes, likewise [M].
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
        class_names: Name of each class, in the order of the labels.
        split: How the images were split, for a reader of an accuracy.
        x_validation: Validation images, held out of the training images, or `None`.
        y_validation: Their classes, or `None`.

    Raises:
        ValueError: If an array has the wrong type, shape or range; it is named. Methods that select
            images refuse to copy memory-mapped ones that do not fit into the memory.
    """

    # No annotation: it is no field.
    in_memory = True

    name: str
    x_train: np.ndarray = field(repr=False)
    y_train: np.ndarray = field(repr=False)
    x_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    mean: tuple
    std: tuple
    class_names: tuple = field(repr=False)
    split: str = ""
    x_validation: np.ndarray | None = field(default=None, repr=False)
    y_validation: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self):
        classes = len(self.class_names)
        if classes < 2:
            raise ValueError(
                f"`class_names` must name at least two classes. Received: {classes} names"
            )
        for part, (images, labels) in self._splits().items():
            _check_images(images, f"x_{part}", self.image_shape)
            _check_labels(labels, f"y_{part}", len(images), classes, unlabelled=part == "train")
            object.__setattr__(self, f"y_{part}", np.asarray(labels, "int64"))
        for name in ("mean", "std"):
            _check_statistics(getattr(self, name), name, self.image_shape[-1])

    @property
    def image_shape(self):
        """Shape of one image."""
        return tuple(np.shape(self.x_train)[1:])

    @property
    def unlabelled_examples(self):
        """Number of training images without a label."""
        return int(np.sum(self.y_train == UNLABELLED))

    @cached_property
    def digest(self):
        """SHA-256 of all images, labels and class names, in hexadecimal."""
        digest = hashlib.sha256("\0".join(map(str, self.class_names)).encode())
        for images, labels in self._splits().values():
            digest.update(f"\n{np.shape(images)}\n".encode())
            for start in range(0, len(images), 1024):
                digest.update(np.ascontiguousarray(images[start : start + 1024]))
            digest.update(np.ascontiguousarray(labels, "<i8"))
        return digest.hexdigest()

    def training_batches(self, batch_size, **options):
        """Shuffled, augmented, normalized batches of the training images.

        Args:
            batch_size: Images of a batch.
            **options: `seed`, `first_epoch`, `epochs`, `drop_remainder`, `with_rows`, `part` and
                the augmentation of `letkd_keras.data.training_batches`.

        Returns:
            `tf.data.Dataset`, on the JAX backend `JaxBatches`, of (float32 [B, H, W, C],
            int64 [B]).

        Raises:
            ValueError: If the batch size or an option is out of range.
        """
        return _batches().training_batches(
            self.x_train,
            self.y_train,
            batch_size,
            mean=self.mean,
            std=self.std,
            num_classes=self.num_classes,
            **options,
        )

    def evaluation_batches(self, batch_size=256, split="test", part=None):
        """Normalized batches in a fixed order, without augmentation; the last may be smaller.

        Args:
            batch_size: Images of a batch.
            split: `"test"`, `"train"` or, if there is one, `"validation"`.
            part: `(index, count)` for the batches `index`, `index + count`, ...; `None` for all.

        Returns:
            `tf.data.Dataset`, on the JAX backend `JaxBatches`, of (float32 [B, H, W, C],
            int64 [B]).

        Raises:
            ValueError: If there is no such split.
        """
        images, labels = find_split(self._splits(), split)
        return _batches().evaluation_batches(
            images, labels, batch_size, mean=self.mean, std=self.std, part=part
        )

    def evaluation_batch(self, number, batch_size, split="test"):
        """One batch of `evaluation_batches`, by its number.

        Args:
            number: Number of the batch, from 0.
            batch_size: Images of a batch.
            split: As for `evaluation_batches`.

        Returns:
            (float32 [B, H, W, C], int64 [B]).

        Raises:
            ValueError: If there is no such split.
        """
        rows = slice(number * batch_size, (number + 1) * batch_size)
        images, labels = (array[rows] for array in find_split(self._splits(), split))
        batches = _batches().evaluation_batches(
            images, labels, batch_size, mean=self.mean, std=self.std
        )
        return next(iter(batches))

    def examples(self, split):
        """Number of images of a split.

        Raises:
            ValueError: If there is no such split.
        """
        return len(find_split(self._splits(), split)[0])

    def subset(self, train_examples=None, test_examples=None, seed=0):
        """A smaller data set with the classes in the same proportion.

        Args:
            train_examples: Number of training images, or `None` for all.
            test_examples: Number of test images, or `None` for all.
            seed: Seed of the choice.

        Returns:
            An `ImageData`.

        Raises:
            ValueError: If a number is less than one for each class, or more than there are.
        """
        train = stratified(self.y_train, train_examples, seed, "train_examples")
        test = stratified(self.y_test, test_examples, seed, "test_examples")
        return replace(
            self,
            x_train=_take(self.x_train, train, "train_examples"),
            y_train=self.y_train[train],
            x_test=_take(self.x_test, test, "test_examples"),
            y_test=self.y_test[test],
        )

    def few(self, examples, seed=0):
        """The same data with few of the training images, repeated until there are as many.

        An epoch then has as many steps as with all of them.

        Args:
            examples: Number of different training images, classes in the same proportion.
            seed: Seed of the choice.

        Returns:
            An `ImageData`.

        Raises:
            ValueError: If the number is less than one for each class, or more than there are.
        """
        chosen = np.arange(self.train_examples)[
            stratified(self.y_train, examples, seed, "examples")
        ]
        rows = np.resize(chosen, self.train_examples)
        images = _take(self.x_train, rows, "examples")
        return replace(self, x_train=images, y_train=self.y_train[rows])

    def with_unlabelled(self, images, name):
        """The same data with further training images, which have no label.

        Args:
            images: uint8 [N, H, W, C], of the shape of the other images.
            name: What they are, for `split`.

        Returns:
            An `ImageData`, whose `split` says so.

        Raises:
            ValueError: If the images have another shape or type.
        """
        _check_images(images, "unlabelled", self.image_shape)
        _check_memory(self.x_train, len(self.x_train) + len(images), "unlabelled")
        return replace(
            self,
            x_train=np.concatenate([self.x_train, images]),
            y_train=np.concatenate([self.y_train, np.full(len(images), UNLABELLED)]),
            split=f"{self.split}; {len(images)} training images of {name} without labels",
        )

    def keep_labels(self, fraction, seed=0):
        """The same data with the labels of only a fraction of the training images.

        Args:
            fraction: Fraction of the training images with a label that keep it, classes in the same
                proportion, greater than 0 and less than 1.
            seed: Seed of the choice.

        Returns:
            An `ImageData` of the same images, whose `split` says so.

        Raises:
            ValueError: If the fraction is out of range, or would leave fewer labels than classes.
        """
        rows = self._rows_with_label()
        kept, others = (rows[part] for part in fraction_of(self.y_train[rows], fraction, seed))
        labels = np.array(self.y_train)
        labels[others] = UNLABELLED
        return replace(
            self,
            y_train=labels,
            split=f"{self.split}; {len(kept)} training images have labels, "
            f"{len(labels) - len(kept)} have none, seed {seed}",
        )

    def labelled(self, repeat=False):
        """The same data without the training images that have no label (`Dataset.labelled`)."""
        if not self.unlabelled_examples:
            return self
        rows = self._rows_with_label()
        if repeat:
            rows = np.resize(rows, len(self.x_train))
        images = _take(self.x_train, rows, "labelled_fraction")
        return replace(self, x_train=images, y_train=self.y_train[rows])

    def _hold_out(self, fraction, seed):
        rows = self._rows_with_label()
        validation = rows[held_out(self.y_train[rows], fraction, seed)[0]]
        train = np.setdiff1d(np.arange(self.train_examples), validation)
        return {
            "x_train": _take(self.x_train, train, "fraction"),
            "y_train": self.y_train[train],
            "x_validation": _take(self.x_train, validation, "fraction"),
            "y_validation": self.y_train[validation],
        }

    def _first_classes(self, classes):
        chosen = {}
        for part, (images, labels) in self._splits().items():
            rows = labels < classes
            chosen |= {f"x_{part}": _take(images, rows, "classes"), f"y_{part}": labels[rows]}
        return chosen

    def _rows_with_label(self):
        return np.flatnonzero(self.y_train != UNLABELLED)

    def _splits(self):
        splits = {"train": (self.x_train, self.y_train), "test": (self.x_test, self.y_test)}
        if self.x_validation is not None:
            splits["validation"] = (self.x_validation, self.y_validation)
        return splits


def _batches():
    """The module that makes batches on this backend."""
    return jax_batches if keras.backend.backend() == "jax" else array_batches


def _take(images, rows, argument):
    """`images[rows]`; memory-mapped images are copied into memory where the rows are spread."""
    if not isinstance(images, np.memmap) or isinstance(rows, slice):
        return images[rows]
    rows = np.arange(len(images))[rows]
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return images[rows[0] : rows[-1] + 1]
    _check_memory(images, len(rows), argument)
    return memory_mapped.take(images, rows)


def _check_memory(images, count, argument):
    """Refuse to copy more memory-mapped images than fit into the memory."""
    needed, memory = count * math.prod(images.shape[1:]), memory_mapped.physical_memory()
    if isinstance(images, np.memmap) and needed > memory:
        raise ValueError(
            f"`{argument}` copies {count} images of the `image_cache` into memory, which need "
            f"{needed:,} bytes; there are {memory:,}. Use a smaller `image_size`, or leave out "
            f"`{argument}`"
        )


def _check_images(images, name, image_shape):
    if getattr(images, "dtype", None) != np.uint8 or images.ndim != 4:
        raise ValueError(f"`{name}` must be uint8 [N, H, W, C]. Received: {shape_of(images)}")
    if 0 in images.shape or images.shape[1:] != image_shape:
        raise ValueError(
            f"`{name}` must have at least one image of shape {image_shape}, without empty "
            f"dimensions. Received: {shape_of(images)}"
        )


def _check_labels(labels, name, images, classes, unlabelled):
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (images,):
        raise ValueError(
            f"`{name}` must be integers, one for each of the {images} images. "
            f"Received: {shape_of(labels)}"
        )
    smallest = UNLABELLED if unlabelled else 0
    if labels.min() < smallest or labels.max() >= classes:
        without = f" (or {UNLABELLED} for images without a label)" if unlabelled else ""
        raise ValueError(
            f"`{name}` must be from 0 to {classes - 1}{without}, for {classes} class names. "
            f"Received: values from {labels.min()} to {labels.max()}"
        )
    if labels.max() < 0:
        raise ValueError(
            f"`{name}` must have at least one image with a label. Received: {images} images "
            "without one"
        )


def _check_statistics(values, name, channels):
    values = np.asarray(values)
    expected = "finite numbers greater than 0" if name == "std" else "finite numbers"
    if (
        values.dtype.kind not in "fiu"
        or values.shape != (channels,)
        or not np.isfinite(values).all()
        or (name == "std" and values.min() <= 0)
    ):
        raise ValueError(
            f"`{name}` must be {expected}, one for each of the {channels} channels. "
            f"Received: {name}={values.tolist()}"
        )


def digests_of(images):
    """A digest of the pixels of each image.

    Args:
        images: uint8 [N, H, W, C].

    Returns:
        List of N `bytes`, which are equal where the pixels are.
    """
    return [hashlib.blake2b(np.ascontiguousarray(image)).digest() for image in images]


def shape_of(array):
    """Type and shape of an array, for errors."""
    if not hasattr(array, "dtype"):
        return type(array).__name__
    return f"{array.dtype} of shape {tuple(array.shape)}"
