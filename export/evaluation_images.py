from dataclasses import dataclass
from pathlib import Path

import numpy as np

_ARRAYS = "images, and perhaps labels, calibration, mean, std, class_names"


@dataclass(frozen=True)
class EvaluationImages:
    """Real images to verify an export on, and what its formats want to know of the data.

    Attributes:
        name: What the images are, for the card.
        images: Test images, normalised, float32 [N, H, W, C].
        labels: Their classes [N], or `None`.
        calibration: Training images, normalised, or `None`.
        mean: Mean of each channel, of pixels in [0, 1], or `None`.
        std: Standard deviation of each channel, or `None`.
        class_names: Name of each class, or `None`.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None
    calibration: np.ndarray | None = None
    mean: tuple | None = None
    std: tuple | None = None
    class_names: tuple | None = None

    def options(self):
        """Arguments of `export_student` and `export_bundle`."""
        fields = ("images", "labels", "calibration", "mean", "std", "class_names")
        return {name: getattr(self, name) for name in fields}


def load_evaluation_images(source, data_dir=None, test_images=1000, calibration_images=200):
    """Images from a data set of this package or from a file.

    Args:
        source: `"digits"`, `"cifar10"`, `"cifar100"`, or an `.npz` file with `images` [N, H, W, C]
            and perhaps `labels`, `calibration`, `mean`, `std` and `class_names`. Images of uint8
            are normalised by `mean` and `std`, others taken as they are.
        data_dir: Folder of tensorflow-datasets, for CIFAR.
        test_images: Number of test images at most, the first ones.
        calibration_images: Number of training images at most.

    Returns:
        `EvaluationImages`.

    Raises:
        ValueError: If there is no such data set, or the file lacks what is needed.
        FileNotFoundError: If the data are not there.
    """
    for name, number in (("test_images", test_images), ("calibration_images", calibration_images)):
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={number}")
    source = str(source)
    if Path(source).suffix == ".npz":
        return _from_file(Path(source), test_images, calibration_images)
    from letkd_keras import data

    if source == "digits":
        loaded = data.load_digits()
    elif source in ("cifar10", "cifar100"):
        loaded = data.load_cifar(source, data_dir)
    else:
        raise ValueError(
            f"`data` must be digits, cifar10, cifar100 or an .npz file. Received: data={source!r}"
        )
    images, labels = first_images(loaded.evaluation_batches(128), test_images)
    calibration, _ = first_images(loaded.evaluation_batches(128, split="train"), calibration_images)
    return EvaluationImages(
        name=f"{loaded.name}, {loaded.split}",
        images=images,
        labels=labels,
        calibration=calibration,
        mean=loaded.mean,
        std=loaded.std,
        class_names=loaded.class_names,
    )


def first_images(batches, count):
    """The first images of batches `(images, labels)` and their labels, at most so many."""
    images, labels, found = [], [], 0
    for x, y in batches:
        images.append(x.numpy())
        labels.append(y.numpy())
        found += len(y)
        if found >= count:
            break
    return np.concatenate(images)[:count], np.concatenate(labels)[:count]


def _from_file(file, test_images, calibration_images):
    if not file.is_file():
        raise FileNotFoundError(f"`data` must be an .npz file that exists. Received: {str(file)!r}")
    with np.load(file, allow_pickle=False) as arrays:
        given = {name: arrays[name] for name in arrays.files}
    if "images" not in given:
        raise ValueError(f"`data` {str(file)!r} must hold {_ARRAYS}. Received: {', '.join(given)}")
    mean, std = (tuple(given[name].tolist()) if name in given else None for name in ("mean", "std"))

    def normalised(name, count):
        if name not in given:
            return None
        images = given[name][:count]
        if images.dtype != np.uint8:
            return images.astype("float32")
        if mean is None or std is None:
            raise ValueError(
                f"`data` {str(file)!r} must hold mean and std, since its {name} are uint8"
            )
        return ((images / 255 - np.asarray(mean)) / np.asarray(std)).astype("float32")

    return EvaluationImages(
        name=file.name,
        images=normalised("images", test_images),
        labels=given["labels"][:test_images] if "labels" in given else None,
        calibration=normalised("calibration", calibration_images),
        mean=mean,
        std=std,
        class_names=tuple(map(str, given["class_names"])) if "class_names" in given else None,
    )
