import logging
from pathlib import Path

import numpy as np

from letkd_keras import ranges
from letkd_keras.data.class_folders import (
    check_same_classes,
    check_utf8,
    find_images,
    find_unlabelled,
    split_folders,
    visible_folders,
    warn_of_class_names,
    warn_of_other_folders,
    without_test_folder,
)
from letkd_keras.data.decoding import decode_all
from letkd_keras.data.image_data import ImageData, digests_of
from letkd_keras.data.label_file import labelled_images
from letkd_keras.data.normalization import pixel_statistics
from letkd_keras.data.selection import held_out

_ADVICE = "Remove this file, or leave such files out with `skip_corrupt` (--skip-corrupt)"

# Images without a brighter pixel use at most six of the eight bits.
_DARK = 63

log = logging.getLogger(__name__)


def load_image_folder(
    path,
    image_size,
    *,
    test_fraction=0.2,
    seed=0,
    mean=None,
    std=None,
    skip_corrupt=False,
    image_cache=None,
    labels=None,
):
    """Any tree of images with a folder for each class, or with labels in a CSV file.

    The class folders are in `path`, or in `train` and `val` (or `valid`, `validation`, `test`)
    below it, in any case (`letkd_keras.data.class_folders.split_folders`). In the first case a
    share of the images of each class becomes the test images. With `train`, `val` and `test`, those
    of `val` are a validation split.
    `letkd_keras.data.decoding.decode` describes what is done with grayscale, transparent or oblong
    images, `letkd_keras.data.class_folders.find_images` which files are images.

    Args:
        path: The tree.
        image_size: Height and width that all images are resized and cropped to.
        test_fraction: Share of the images that are test images, in (0, 1); there are at least as
            many as classes. It has no effect if the tree is already split.
        seed: Seed of the split.
        mean: Mean of each channel, of pixels in [0, 1]; `None` measures the training images.
        std: Standard deviation likewise.
        skip_corrupt: Whether image files that cannot be read are left out with a warning.
        image_cache: Folder for the decoded images, which are then memory-mapped; `None` keeps them
            in memory, `3 * image_size**2` bytes each.
        labels: CSV file with the columns `file` and `label`
            (`letkd_keras.data.label_file.labelled_images`). The folders of the tree are then no
            classes, and only the files that it lists are used.

    Returns:
        `ImageData`.

    Raises:
        FileNotFoundError: If `path` does not exist.
        OSError: If the disk has no room for the image cache.
        ValueError: If an argument is out of range, a class has no images or too few to be split,
            training and validation classes differ, or an image is damaged; files and folders are
            named.
    """
    ranges.image_size.check(image_size, "image_size")
    ranges.positive_fraction.check(test_fraction, "test_fraction")
    path = Path(path)
    name = path.resolve().name
    check_utf8(name, "`path`")
    files, folders = _files_of_splits(path, labels)
    if "test" in files:
        names = [folder.name for folder in folders.values()]
        split = f"as in the folders {', '.join(names[:-1])} and {names[-1]}"
    else:
        files, split = _with_test_files(files["train"], test_fraction, seed)
    arrays = {}
    for part, chosen in files.items():
        images, kept = decode_all(chosen.files, image_size, skip_corrupt, image_cache, _ADVICE)
        if not len(images):
            raise ValueError(
                f"There must be a readable {part} image. Received: {len(chosen)} that are damaged"
            )
        arrays |= {f"x_{part}": images, f"y_{part}": chosen.labels[kept]}
    class_names = files["train"].class_names
    warn_of_class_names(labels or folders["train"], class_names)
    _check_classes(arrays["y_train"], class_names, folders["train"], labels)
    _warn_of_dark_images(path, arrays["x_train"])
    _warn_of_copies(path, arrays)
    if mean is None or std is None:
        measured_mean, measured_std = pixel_statistics(arrays["x_train"])
        mean = measured_mean if mean is None else mean
        std = measured_std if std is None else std
    return ImageData(
        name=name,
        mean=tuple(mean),
        std=tuple(std),
        class_names=class_names,
        split=split,
        **arrays,
    )


def load_unlabelled(path, image_shape, skip_corrupt=False, known=()):
    """All images of a tree, for training without labels.

    Args:
        path: The tree (`letkd_keras.data.class_folders.find_unlabelled`).
        image_shape: Shape that they are resized and cropped to: square, of three channels.
        skip_corrupt: Whether image files that cannot be read are left out with a warning.
        known: Set of the digests (`letkd_keras.data.image_data.digests_of`) of images that are left
            out with a warning, such as test images, whatever file they are in.

    Returns:
        uint8 [N, H, W, 3].

    Raises:
        FileNotFoundError: If `path` does not exist.
        ValueError: If there is no other image, the shape is another, or an image is damaged.
    """
    height, width, channels = image_shape
    if height != width or channels != 3:
        raise ValueError(
            "`unlabelled` needs data of square images with three channels. "
            f"Received: images of shape {tuple(image_shape)}"
        )
    images, _ = decode_all(find_unlabelled(path), height, skip_corrupt, None, _ADVICE)
    new = np.array([digest not in known for digest in digests_of(images)], bool)
    if new.all():
        return images
    log.warning(
        "%s: %d images belong to the data already; they are not used as images without labels",
        path,
        int(np.sum(~new)),
    )
    if not new.any():
        raise ValueError(
            "`unlabelled` must be a folder with images that `data` does not have. Received: "
            f"{str(path)!r}, whose images all belong to `data`, where `train_examples` or "
            "`classes` may leave them out. To train with few labels, use `labelled_fraction` "
            "(--labelled-fraction)"
        )
    return images[new]


def _files_of_splits(path, labels):
    """`(files, folders)`, both by split: `train` alone if the tree is not split yet."""
    folders = split_folders(path)
    if labels is not None:
        return labelled_images(path, labels, folders)
    warn_of_other_folders(path, folders)
    if "validation" in folders and not visible_folders(folders["test"]):
        folders = without_test_folder(folders, f"{folders['test']} has no class folders")
    files = {split: find_images(folder) for split, folder in folders.items()}
    for other in list(files.values())[1:]:
        check_same_classes(files["train"], other)
    return files, folders


def _check_classes(labels, class_names, folder, label_file):
    """Refuse a class whose training images were all left out."""
    missing = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if missing:
        name = class_names[missing[0]]
        place = f"in {str(folder / name)!r}"
        if label_file is not None:
            place = f"of the class {name!r} of {str(label_file)!r}"
        raise ValueError(f"Every class needs readable training images. Received: none {place}")


def _warn_of_dark_images(path, images):
    """Warn if the training images use few of their bits, as 12-bit images in 16-bit files do."""
    brightest = int(images.max())
    if brightest <= _DARK:
        log.warning(
            "%s: the brightest pixel of the training images is %d of 255; of 16 bits only the "
            "upper 8 are read, so scale 12-bit images to the range of 16 bits before",
            path,
            brightest,
        )


def _warn_of_copies(path, arrays):
    """Warn if validation or test images are training images, too, whatever files they are in.

    Images of one color, such as empty ones, are not counted: they may well be in all parts.
    """
    known = set(digests_of(arrays["x_train"]))
    for part in ("validation", "test"):
        images = arrays.get(f"x_{part}", ())
        copies = sum(
            digest in known and bool(np.any(image != image[0, 0]))
            for digest, image in zip(digests_of(images), images, strict=True)
        )
        if copies:
            log.warning(
                "%s: %d of the %d %s images are training images, too; the accuracy on them is too "
                "high",
                path,
                copies,
                len(images),
                part,
            )


def _with_test_files(files, test_fraction, seed):
    """The files by split where a share of them becomes the test images, and that share in words."""
    # One test image of each class, where the share is less.
    test_fraction = max(test_fraction, len(files.class_names) / len(files))
    counts = np.bincount(files.labels)
    if counts.min() < 2:
        raise ValueError(
            "Every class needs at least two images to be split. "
            f"Received: {counts.min()} in class {files.class_names[int(counts.argmin())]!r}"
        )
    if round(test_fraction * len(files)) > len(files) - len(counts):
        raise ValueError(
            "`test_fraction` must leave one training image of each of the "
            f"{len(counts)} classes. Received: test_fraction={test_fraction} of {len(files)} images"
        )
    test, train = held_out(files.labels, test_fraction, seed)
    text = f"{test_fraction:g} of the images of each class are test images, seed {seed}"
    return {"train": files.select(train), "test": files.select(test)}, text
