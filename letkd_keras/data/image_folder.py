import logging
from pathlib import Path

import numpy as np

from letkd_keras.data.class_folders import check_same_classes, find_images, split_folders
from letkd_keras.data.decoding import decode_all
from letkd_keras.data.image_data import ImageData

log = logging.getLogger("letkd_keras")


def load_image_folder(
    path,
    image_size,
    *,
    validation_split=0.2,
    seed=0,
    mean=None,
    std=None,
    skip_corrupt=False,
    cache=None,
):
    """Any tree of images with a folder for each class.

    Either the class folders lie in `path`, and a stratified share of the images is held out, or
    `path` has `train` and `val` (or `valid`, `validation`, `test`) with the class folders below.
    What becomes of grey-scale, transparent or oblong images `letkd_keras.data.decoding.decode`
    says; which files count as images `letkd_keras.data.class_folders.find_images`.

    Args:
        path: The tree.
        image_size: Height and width that all images are brought to.
        validation_split: Share of the images held out, in (0, 1); without effect where the tree
            comes split.
        seed: Seed of the split.
        mean: Mean of each channel, of pixels in [0, 1]; `None` measures the training images.
        std: Standard deviation likewise.
        skip_corrupt: Whether broken files are left out with a warning rather than an error.
        cache: Folder for the decoded images, memory-mapped from there; `None` holds them in memory,
            3 * `image_size`**2 bytes each.

    Returns:
        `ImageData`; its test images are those held out.

    Raises:
        FileNotFoundError: If `path` is not there.
        ValueError: If a class has no images or too few to be split, training and validation classes
            differ, or an image is broken; files and folders are named.
    """
    if image_size < 8:
        raise ValueError(f"`image_size` must be at least 8. Received: image_size={image_size}")
    path = Path(path)
    train_folder, test_folder = split_folders(path)
    train = find_images(train_folder)
    if test_folder is None:
        chosen, held_out = _split(train, validation_split, seed)
        train, test = train.select(chosen), train.select(held_out)
        split = f"{validation_split:g} of the images of each class held out, seed {seed}"
    else:
        test = find_images(test_folder)
        check_same_classes(train, test)
        split = f"as in the folders {train_folder.name} and {test_folder.name}"
    (x_train, y_train), (x_test, y_test) = (
        _decoded(files, image_size, skip_corrupt, cache) for files in (train, test)
    )
    _check_classes(y_train, train.class_names, train_folder)
    if mean is None or std is None:
        measured_mean, measured_std = pixel_statistics(x_train)
        mean = measured_mean if mean is None else mean
        std = measured_std if std is None else std
    return ImageData(
        name=path.resolve().name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        mean=tuple(mean),
        std=tuple(std),
        class_names=train.class_names,
        split=split,
    )


def pixel_statistics(images, batch=1024):
    """Mean and standard deviation of each channel, a batch at a time.

    Args:
        images: uint8 [N, H, W, C].
        batch: Images read at once.

    Returns:
        Two tuples of C numbers, of pixels in [0, 1]; the deviation is at least 1/255.
    """
    counts = np.zeros((images.shape[-1], 256))
    for start in range(0, len(images), batch):
        for channel, count in enumerate(counts):
            values = images[start : start + batch, ..., channel]
            count += np.bincount(values.ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = shares @ levels
    std = np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())


def _decoded(files, image_size, skip_corrupt, cache):
    images, kept = decode_all(files.files, image_size, skip_corrupt, cache)
    return images, files.labels[kept]


def _check_classes(labels, class_names, folder):
    """Refuse a class that skipping has left without training images."""
    missing = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if missing:
        raise ValueError(
            "Every class needs readable training images. "
            f"Received: none in {str(folder / class_names[missing[0]])!r}"
        )


def _split(files, validation_split, seed):
    from sklearn.model_selection import train_test_split

    if not 0 < validation_split < 1:
        raise ValueError(
            "`validation_split` must be between 0 and 1. "
            f"Received: validation_split={validation_split}"
        )
    counts = np.bincount(files.labels)
    if counts.min() < 2:
        raise ValueError(
            "Every class needs at least two images to be split. "
            f"Received: {counts.min()} in class {files.class_names[int(counts.argmin())]!r}"
        )
    held_out = round(validation_split * len(files))
    if not len(counts) <= held_out <= len(files) - len(counts):
        raise ValueError(
            f"`validation_split` must leave one image of each of the {len(counts)} classes on both "
            f"sides. Received: validation_split={validation_split} of {len(files)} images"
        )
    chosen, others = train_test_split(
        np.arange(len(files)), test_size=held_out, stratify=files.labels, random_state=seed
    )
    return np.sort(chosen), np.sort(others)
