from pathlib import Path

import numpy as np

from letkd_keras.data.decoding import decode_all
from letkd_keras.data.image_data import ImageData

_FOLDER = "tiny-imagenet-200"
_SIZE = 64
# Mean and standard deviation of the training pixels, as in the published recipes.
_MEAN = (0.4802, 0.4481, 0.3975)
_STD = (0.2302, 0.2265, 0.2262)


def load_tiny_imagenet(data_dir, image_cache=None):
    """Tiny-ImageNet as in its archive: 200 classes, 64x64, 500 training images of each class.

    The test images are the 50 validation images of each class, whose labels are in
    `val/val_annotations.txt`, in the order of their numbers. The archive's own test images have no
    labels. `validation_halves` separates the two halves of the validation images.

    Args:
        data_dir: The unzipped folder `tiny-imagenet-200`, or its parent.
        image_cache: Folder for the decoded images, which are then memory-mapped; `None` keeps them
            in memory, 1.4 GB.

    Returns:
        `ImageData`.

    Raises:
        FileNotFoundError: If the folder or a part of it is missing.
        OSError: If the disk has no room for the image cache.
        ValueError: If a class has no training image, an annotation has an unknown class, or an
            image is damaged; each is named.
    """
    root = Path(data_dir)
    root = root / _FOLDER if (root / _FOLDER).is_dir() else root
    for part in ("train", "wnids.txt", "val/images", "val/val_annotations.txt"):
        if not (root / part).exists():
            raise FileNotFoundError(
                f"`data_dir` must be the unzipped folder {_FOLDER}. "
                f"Received: {str(data_dir)!r}, where there is no {part}"
            )
    # wnids.txt is not sorted; torchvision's ImageFolder numbers the sorted classes.
    wnids = sorted((root / "wnids.txt").read_text().split())
    train = _training_files(root, wnids)
    val = _validation_files(root, wnids)
    (x_train, y_train), (x_test, y_test) = (
        (decode_all(files, _SIZE, cache=image_cache)[0], np.array(labels, "int64"))
        for files, labels in (train, val)
    )
    return ImageData(
        name="tiny_imagenet",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        mean=_MEAN,
        std=_STD,
        class_names=_class_names(root, wnids),
        split=f"{len(y_train)} training and {len(y_test)} validation images of the archive",
    )


def validation_halves(labels):
    """The paper's two halves of the validation images, with 25 images of each class in either.

    The paper does not state which 25. Here the first half are the first images of each class in the
    order of their numbers.

    Args:
        labels: Labels of the test images in the order of `load_tiny_imagenet`, [N].

    Returns:
        Boolean array [N], true for the first half.
    """
    labels = np.asarray(labels)
    first = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        first[rows[: len(rows) // 2]] = True
    return first


def _training_files(root, wnids):
    files, labels = [], []
    for label, wnid in enumerate(wnids):
        images = (root / "train" / wnid / "images").glob("*.JPEG")
        images = sorted((file for file in images if file.is_file()), key=_number)
        if not images:
            raise ValueError(
                f"Every class must have images. Received: {str(root / 'train' / wnid)!r} with no "
                "images/*.JPEG"
            )
        files += images
        labels += [label] * len(images)
    return files, labels


def _validation_files(root, wnids):
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    rows = []
    lines = (root / "val" / "val_annotations.txt").read_text().splitlines()
    for line in filter(str.strip, lines):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in label_of:
            raise ValueError(
                f"val_annotations.txt must name classes of wnids.txt. Received: {line!r}"
            )
        rows.append((root / "val" / "images" / name, label_of[wnid]))
    missing = [str(file) for file, _ in rows if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"val_annotations.txt names {len(missing)} images that do not exist: {missing[0]}"
        )
    rows.sort(key=lambda row: _number(row[0]))
    return [file for file, _ in rows], [label for _, label in rows]


def _number(file):
    """The number in a name, so that `val_12.JPEG` comes after `val_9.JPEG`."""
    number = file.stem.rpartition("_")[2]
    if not number.isdigit():
        raise ValueError(f"Images must be named NAME_NUMBER.JPEG. Received: {str(file)!r}")
    return int(number)


def _class_names(root, wnids):
    """The first of the words of each class, if the archive has them."""
    words = root / "words.txt"
    if not words.exists():
        return tuple(wnids)
    pairs = (line.split("\t", 1) for line in words.read_text().splitlines() if "\t" in line)
    names = {wnid: text.split(",")[0] for wnid, text in pairs}
    return tuple(names.get(wnid, wnid) for wnid in wnids)
