from dataclasses import dataclass, field, replace

import keras
import numpy as np

from letkd_keras.data import jax_batches, pipeline
from letkd_keras.data.stratified import stratified


@dataclass(frozen=True)
class ImageData:
    """A classification data set in memory, as it comes: no augmentation, no normalisation.

    Attributes:
        name: Name of the data set, for manifests and reports.
        x_train: Training images, uint8 [N, H, W, C].
        y_train: Their classes, int64 [N].
        x_test: Test images, uint8 [M, H, W, C].
        y_test: Their classes, int64 [M].
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
        class_names: Name of each class, in the order of the labels.
        split: What a reader of an accuracy must know of the split.
        x_validation: Images held out of the training set to choose by, or `None`.
        y_validation: Their classes, or `None`.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    mean: tuple
    std: tuple
    class_names: tuple = field(repr=False)
    split: str = ""
    x_validation: np.ndarray | None = None
    y_validation: np.ndarray | None = None

    @property
    def num_classes(self):
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self):
        """Shape of one image."""
        return self.x_train.shape[1:]

    @property
    def train_examples(self):
        """Number of training images."""
        return len(self.x_train)

    @property
    def test_examples(self):
        """Number of test images."""
        return len(self.x_test)

    def training_batches(self, batch_size, **options):
        """Shuffled, augmented, normalised batches of the training images.

        Args:
            batch_size: Images a batch.
            **options: `seed`, `first_epoch`, `epochs`, `with_rows` and the augmentation of
                `letkd_keras.data.training_batches`.

        Returns:
            `tf.data.Dataset`, on the JAX backend `JaxBatches`, of (float32 [B, H, W, C],
            int64 [B]).
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

    def evaluation_batches(self, batch_size, split="test"):
        """Normalised batches in a fixed order, without augmentation.

        Args:
            batch_size: Images a batch.
            split: `"test"`, `"train"` or, if there is one, `"validation"`.

        Returns:
            `tf.data.Dataset`, on the JAX backend `JaxBatches`, of (float32 [B, H, W, C],
            int64 [B]).

        Raises:
            ValueError: If the split is none of these.
        """
        splits = {"train": (self.x_train, self.y_train), "test": (self.x_test, self.y_test)}
        if self.x_validation is not None:
            splits["validation"] = (self.x_validation, self.y_validation)
        if split not in splits:
            names = " or ".join(map(repr, splits))
            raise ValueError(f"`split` must be {names}. Received: split={split!r}")
        return _batches().evaluation_batches(
            *splits[split], batch_size, mean=self.mean, std=self.std
        )

    def subset(self, train_examples=None, test_examples=None, seed=0):
        """A smaller data set with the classes in the same proportion.

        Args:
            train_examples: Number of training images, or `None` for all.
            test_examples: Number of test images, or `None` for all.
            seed: Seed of the choice.

        Returns:
            An `ImageData`.

        Raises:
            ValueError: If a number is below one per class or above what is there.
        """
        train = stratified(self.y_train, train_examples, seed, "train_examples")
        test = stratified(self.y_test, test_examples, seed, "test_examples")
        return self._of(train, test)

    def hold_out(self, fraction, seed=0):
        """The same data with a validation set held out of the training set.

        Args:
            fraction: Share of the training images, classes in the same proportion, more than 0 and
                less than 1.
            seed: Seed of the choice.

        Returns:
            An `ImageData` with so many training images less, whose `split` says so.

        Raises:
            ValueError: If the fraction is out of range or either side would have fewer images than
                classes.
        """
        held, classes = round(fraction * self.train_examples), len(np.unique(self.y_train))
        if not classes <= held <= self.train_examples - classes:
            raise ValueError(
                "`fraction` must be more than 0 and less than 1, with an image a class on either "
                f"side. Received: fraction={fraction} of {self.train_examples} images"
            )
        rows = stratified(self.y_train, held, seed, "fraction")
        kept = np.setdiff1d(np.arange(self.train_examples), rows)
        return replace(
            self,
            x_train=self.x_train[kept],
            y_train=self.y_train[kept],
            x_validation=self.x_train[rows],
            y_validation=self.y_train[rows],
            split=f"{self.split}; {held} training images held out for validation, seed {seed}",
        )

    def first_classes(self, classes):
        """The images of the first classes alone: a smaller problem, not a smaller sample.

        Args:
            classes: Number of classes, at least 2.

        Returns:
            An `ImageData` whose name says so.

        Raises:
            ValueError: If the number is out of range.
        """
        if not 2 <= classes <= self.num_classes:
            raise ValueError(
                f"`classes` must be between 2 and {self.num_classes}. Received: classes={classes}"
            )
        return replace(
            self._of(self.y_train < classes, self.y_test < classes),
            name=f"{self.name}, first {classes} classes",
            class_names=self.class_names[:classes],
        )

    def _of(self, train, test):
        return replace(
            self,
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_test=self.x_test[test],
            y_test=self.y_test[test],
        )


def _batches():
    """What makes batches on this backend."""
    return jax_batches if keras.backend.backend() == "jax" else pipeline
