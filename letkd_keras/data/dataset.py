"""What data sets in memory and data sets that are read from disk have in common."""

import logging
from contextlib import contextmanager
from dataclasses import replace

log = logging.getLogger(__name__)

# TensorFlow's classes by their names: it may not be installed. They are of an image that cannot be
# decoded, a damaged file of records, a file of too few records, and a file that is missing.
_OF_BROKEN_FILES = {
    *("InvalidArgumentError", "DataLossError", "FailedPreconditionError", "NotFoundError")
}


class Dataset:
    """A classification data set: `ImageData` or `StreamedImages`.

    Both also have `examples`, `subset`, `training_batches`, `evaluation_batches` and
    `evaluation_batch`.

    Attributes:
        name: Name of the data set, for manifests and reports.
        image_shape: Shape of one image.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        class_names: Name of each class, in the order of the labels.
        split: How the images were split, for a reader of an accuracy.
        digest: SHA-256 that changes when images, labels or class names change, in hexadecimal.
        in_memory: Whether the images are in memory.
        unlabelled_examples: Number of training images without a label.
        evaluation_crop: Share of an image's shorter side that `evaluation_batches` has.
    """

    # Subclasses define `_splits`, a dictionary by split, and `_hold_out` and `_first_classes`,
    # which return the fields that change.

    in_memory = False
    unlabelled_examples = 0
    evaluation_crop = 1.0

    @property
    def num_classes(self):
        """Number of classes."""
        return len(self.class_names)

    @property
    def train_examples(self):
        """Number of training images."""
        return self.examples("train")

    @property
    def test_examples(self):
        """Number of test images."""
        return self.examples("test")

    @property
    def has_validation(self):
        """Whether there is a validation split."""
        return "validation" in self._splits()

    def hold_out(self, fraction, seed=0):
        """The same data with a validation split that is held out of the training images.

        Args:
            fraction: Fraction of the training images with a label, classes in the same proportion,
                greater than 0 and less than 1. Images without a label stay training images.
            seed: Seed of the choice.

        Returns:
            The data set with fewer training images, whose `split` says so.

        Raises:
            ValueError: If the fraction is out of range, would leave too few images on either side,
                or there is a validation split already.
        """
        if self.has_validation:
            raise ValueError(
                "`fraction` must be left out for data that has a validation split already. "
                f"Received: fraction={fraction}"
            )
        data = replace(self, **self._hold_out(fraction, seed))
        return replace(
            data,
            split=f"{self.split}; {data.examples('validation')} training images held out for "
            f"validation, seed {seed}",
        )

    def first_classes(self, classes):
        """The images of the first classes only.

        Args:
            classes: Number of classes, at least 2.

        Returns:
            The data set, whose name says so.

        Raises:
            ValueError: If the number is out of range, or the images are records of
                tensorflow-datasets.
        """
        if not 2 <= classes <= self.num_classes:
            raise ValueError(
                f"`classes` must be between 2 and {self.num_classes}. Received: classes={classes}"
            )
        return replace(
            self,
            name=f"{self.name}, first {classes} classes",
            class_names=self.class_names[:classes],
            **self._first_classes(classes),
        )

    def labelled(self, repeat=False):
        """The same data without the training images that have no label.

        Args:
            repeat: Whether the others are repeated until there are as many training images as
                before, so that an epoch has as many steps.

        Returns:
            The data set; this one if all training images have a label.
        """
        return self

    def check(self):
        """Read every image once, if the images are not in memory.

        Raises:
            ValueError: Naming files that cannot be decoded.
        """

    @contextmanager
    def broken_files_named(self):
        """A scope that reads images. It names the files that stop it, which TensorFlow does not.

        Raises:
            ValueError: Naming files that cannot be read.
        """
        try:
            yield
        except Exception as error:
            if type(error).__name__ in _OF_BROKEN_FILES and not self.in_memory:
                log.warning("An error stopped the reading. Looking for files that are damaged.")
                self.check()
            raise
