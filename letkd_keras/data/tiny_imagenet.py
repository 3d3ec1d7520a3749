from pathlib import Path

import numpy as np

from letkd_keras.data.decoding import decode_all
from letkd_keras.data.image_data import ImageData

_FOLDER = "tiny-imagenet-200"
_SIZE = 64
# Of the training pixels, as the published recipes have them.
_MEAN = (0.4802, 0.4481, 0.3975)
_STD = (0.2302, 0.2265, 0.2262)


def load_tiny_imagenet(data_dir, cache=None):
    """Tiny-ImageNet as it comes out of its archive: 200 classes, 64x64.

    500 training images a class; the test images here are the 50 validation images a class, whose
    labels are in `val/val_annotations.txt`, in the order of their numbers (the archive's own test
    images have no labels). `validation_halves` tells the two halves of them apart.

    Args:
        data_dir: The unzipped folder `tiny-imagenet-200`, or the folder it is in.
        cache: Folder for the decoded images, memory-mapped from there; `None` holds them in memory,
            1.4 GB.

    Returns:
        `ImageData`.

    Raises:
        FileNotFoundError: If the folder or a part of it is not there.
        ValueError: If a class has no training image, an annotation is not of these classes, or an
            image is broken; each is named.
    """
    root = Path(data_dir)
    root = root / _FOLDER if (root / _FOLDER).is_dir() else root
    for part in ("train", "wnids.txt", "val/images", "val/val_annotations.txt"):
        if not (root / part).exists():
            raise FileNotFoundError(
                f"`data_dir` must be the unzipped folder {_FOLDER}. "
                f"Received: {str(data_dir)!r}, where there is no {part}"
            )
    # Sorted, as torchvision's ImageFolder numbers the classes; wnids.txt is not.
    wnids = sorted((root / "wnids.txt").read_text().split())
    train = _training_files(root, wnids)
    val = _validation_files(root, wnids)
    (x_train, y_train), (x_test, y_test) = (
        (decode_all(files, _SIZE, cache=cache)[0], np.array(labels, "int64"))
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
    """The paper's split of the validation images in two: 25 of each class for either half.

    The paper does not say which 25. Here the first half are the first images of each class in the
    order of their numbers, the second half the others.

    Args:
        labels: Labels of the test images in the order of `load_tiny_imagenet`, [N].

    Returns:
        Boolean array [N], true for the first half.
    """
    labels = np.asarray(labels)
    first = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        first[places[: len(places) // 2]] = True
    return first


def _training_files(root, wnids):
    files, labels = [], []
    for label, wnid in enumerate(wnids):
        found = sorted((root / "train" / wnid / "images").glob("*.JPEG"), key=_number)
        if not found:
            raise ValueError(
                f"Every class must have images. Received: {str(root / 'train' / wnid)!r} with no "
                "images/*.JPEG"
            )
        files += found
        labels += [label] * len(found)
    return files, labels


def _validation_files(root, wnids):
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    files, labels = [], []
    for line in (root / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        if wnid not in label_of:
            raise ValueError(
                f"val_annotations.txt must name classes of wnids.txt. Received: {line!r}"
            )
        files.append(root / "val" / "images" / name)
        labels.append(label_of[wnid])
    order = sorted(range(len(files)), key=lambda place: _number(files[place]))
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"val_annotations.txt names {len(missing)} images that are not there: {missing[0]}"
        )
    return [files[place] for place in order], [labels[place] for place in order]


def _number(file):
    """`val_12.JPEG` after `val_9.JPEG`."""
    return int(file.stem.rsplit("_", 1)[1])


def _class_names(root, wnids):
    """The first of the words for each class, where the archive's words are there."""
    words = root / "words.txt"
    if not words.exists():
        return tuple(wnids)
    pairs = (line.split("\t", 1) for line in words.read_text().splitlines() if "\t" in line)
    names = {wnid: text.split(",")[0] for wnid, text in pairs}
    return tuple(names.get(wnid, wnid) for wnid in wnids)
