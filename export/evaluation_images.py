"""The images of a data set that an export is verified, calibrated and measured on."""

import logging
import math
from dataclasses import dataclass

import numpy as np

from letkd_keras.commands.option_types import option_of
from letkd_keras.export.data_of_student import knows_data
from letkd_keras.ranges import positive_integer

log = logging.getLogger(__name__)

_BATCH = 64
_VALUES = 2**26  # of the images of one kind, as float32: 256 MiB


@dataclass(frozen=True)
class EvaluationImages:
    """Images to verify an export on, and what its formats need to know about the data.

    Attributes:
        name: Name of the images, for the card.
        images: Test images, normalized, float32 [N, H, W, C].
        labels: Their classes [N], or `None`.
        calibration: Training images, normalized, or `None`.
        mean: Mean of each channel, of pixels in [0, 1], or `None`.
        std: Standard deviation of each channel, or `None`.
        crop: Share of the shorter side of an image file that is its test image.
        class_names: Name of each class, or `None`.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None
    calibration: np.ndarray | None = None
    mean: tuple | None = None
    std: tuple | None = None
    crop: float = 1.0
    class_names: tuple | None = None

    def options(self):
        """Arguments of `export_student` and `export_bundle`."""
        return {name: value for name, value in vars(self).items() if name != "name"}


@dataclass(frozen=True)
class SelectionImages:
    """Images to select the number of templates on. None of them is a test image.

    Attributes:
        images: Normalized, float32 [N, H, W, C].
        labels: Their classes [N].
        calibration: Other training images [M, H, W, C], normalized, to fit value kernels on.
        description: What the images are, for reports.
    """

    images: np.ndarray
    labels: np.ndarray
    calibration: np.ndarray
    description: str


def add_image_options(parser, calibration=None):
    """Add `--check-images` and, if it has a default, `--calibration-images`.

    Args:
        parser: `letkd_keras.commands.command_line.Parser`.
        calibration: Default of `--calibration-images`; `None` for no such option.
    """
    counts = {"type": positive_integer, "metavar": "N"}
    parser.add_argument(
        "--check-images",
        default=1000,
        help="test images to check files and report accuracies on, at most",
        **counts,
    )
    if calibration is not None:
        parser.add_argument(
            "--calibration-images",
            default=calibration,
            help="training images for int8 and int16x8, and to fit and train on, at most",
            **counts,
        )


def check_image_options(parser, options):
    """Refuse numbers of images where there are none, a check for `Parser.add_check`.

    Args:
        parser: The parser of `add_image_options`, first argument of the check.
        options: Parsed options with `model` and `data`.

    Returns:
        What is wrong, a sentence, or `None`.
    """
    for name in ("check_images", "calibration_images"):
        value = getattr(options, name, None)
        is_given = value != parser.get_default(name)
        if is_given and not options.data and not knows_data(options.model):
            option = option_of(name)
            return (
                f"{option} needs --data, since {str(options.model)!r} is no run folder, which "
                f"knows its data. Received: {option} {value}"
            )
    return None


def evaluation_images(data, test_images=1000, calibration_images=200, seed=0):
    """Take test images and calibration images of a data set.

    Args:
        data: `Dataset`.
        test_images: Number of test images at most. Large images are limited to 256 MiB.
        calibration_images: Number of training images at most, limited likewise; 0 for none.
        seed: Seed of the choice.

    Returns:
        `EvaluationImages`. Classes are in the same proportion as in the data set.
    """
    images, labels = take(data, "test", test_images, seed)
    calibration = None
    if calibration_images:
        calibration, _ = take(data, "train", calibration_images, seed)
    return EvaluationImages(
        name=f"{data.name}, {data.split}",
        images=images,
        labels=labels,
        calibration=calibration,
        mean=data.mean,
        std=data.std,
        crop=data.evaluation_crop,
        class_names=data.class_names,
    )


def selection_images(data, selection=1000, calibration=1000, seed=0):
    """Take images to select templates on, and calibration images, without the test images.

    The images are those of the validation split if the data set has one. Otherwise the training
    images drawn are divided between selection and calibration.

    Args:
        data: `Dataset`.
        selection: Number of images to select on, at most.
        calibration: Number of calibration images, at most.
        seed: Seed of the choice.

    Returns:
        `SelectionImages`.
    """
    if data.has_validation:
        images, labels = take(data, "validation", selection, seed)
        fitted, _ = take(data, "train", calibration, seed)
        description = f"{len(images)} validation images, held out of the training"
        return SelectionImages(images, labels, fitted, description)
    drawn, labels = take(data, "train", selection + calibration, seed)
    count = round(len(drawn) * selection / (selection + calibration))
    order = np.random.default_rng(seed).permutation(len(drawn))
    chosen, fitted = order[:count], order[count:]
    description = (
        f"{count} training images that the reduction was not fitted to (the data set has no "
        "validation images)"
    )
    return SelectionImages(drawn[chosen], labels[chosen], drawn[fitted], description)


def take(data, split, count, seed=0):
    """Take images of a split, with the classes in the same proportion.

    Args:
        data: `Dataset`.
        split: `"train"`, `"test"` or `"validation"`.
        count: Number of images at most. Large images are limited to 256 MiB.
        seed: Seed of the choice.

    Returns:
        `(images, labels)`: float32 [N, H, W, C], normalized, and integers [N].

    Raises:
        ValueError: If files of images cannot be read; they are named.
    """
    wanted, limit = count, max(_BATCH, _VALUES // math.prod(data.image_shape))
    count = min(wanted, limit)
    if split in ("train", "test"):
        data = _subset(data, split, count, seed)
    batches = data.evaluation_batches(_BATCH, split=split)
    # The last batch may be smaller. A data set may be ordered by class.
    step = (len(batches) - 1) * _BATCH // count
    with data.broken_files_named():
        # Copies, since a view would keep its whole batch in memory.
        parts = [[np.asarray(part)[:: max(step, 1)].copy() for part in batch] for batch in batches]
    images, labels = map(np.concatenate, zip(*parts, strict=True))
    if len(images) > count:
        rows = np.random.default_rng(seed).permutation(len(images))[:count]
        images, labels = images[rows], labels[rows]
    if len(images) == limit < wanted:
        log.info(
            "%d %s images are used in place of %d, since 256 MiB hold no more", limit, split, wanted
        )
    return images, labels


def _subset(data, split, count, seed):
    name = f"{split}_examples"
    # A stratified choice needs an image of each class.
    count = max(count, data.num_classes)
    return data if count >= getattr(data, name) else data.subset(**{name: count}, seed=seed)
