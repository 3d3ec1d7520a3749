"""Trees of images with a folder for each class, as files and labels."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

log = logging.getLogger("letkd_keras")

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their classes.

    Attributes:
        files: Paths, class by class, in the order of their names.
        labels: Class of each, int64 [N].
        class_names: Names of the class folders, sorted: the classes 0, 1, ...
        ignored: Number of files in the tree that are no images by their suffix.
    """

    files: tuple
    labels: np.ndarray
    class_names: tuple
    ignored: int

    def __len__(self):
        return len(self.files)

    def select(self, chosen):
        """The same classes with the files of the chosen indices or slice only."""
        indices = np.arange(len(self))[chosen]
        return ImageFiles(
            tuple(self.files[index] for index in indices),
            self.labels[indices],
            self.class_names,
            self.ignored,
        )


def find_images(path, suffixes=frozenset(_IMAGE_SUFFIXES)):
    """The images of a tree whose folders are the classes.

    Every folder of `path` is a class, named and, sorted by name, numbered by it; all images below
    it, at any depth, are its own. Files that are no images by their suffix are ignored, with a
    warning that counts them; so are hidden files and folders, without one.

    Args:
        path: The folder of the class folders.
        suffixes: Lower-case suffixes of images.

    Returns:
        `ImageFiles`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has fewer than two class folders, or one of them has no image.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"`path` must be a folder of class folders. Received: {str(path)!r}"
        )
    classes = sorted(
        (entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
        key=lambda folder: folder.name,
    )
    if len(classes) < 2:
        raise ValueError(
            f"`path` must have a folder for each of at least two classes. Received: {str(path)!r} "
            f"with {', '.join(folder.name for folder in classes) or 'no folder'}"
        )
    files, labels = [], []
    ignored = sum(entry.is_file() for entry in path.iterdir() if not entry.name.startswith("."))
    for label, folder in enumerate(classes):
        found = _files_below(folder)
        images = sorted(file for file in found if file.suffix.lower() in suffixes)
        if not images:
            raise ValueError(
                f"Every class folder must have images ({', '.join(sorted(suffixes))}). "
                f"Received: {str(folder)!r} with none among {len(found)} files"
            )
        ignored += len(found) - len(images)
        files += images
        labels += [label] * len(images)
    if ignored:
        log.warning("%s: %d files that are no images were ignored", path, ignored)
    return ImageFiles(
        tuple(files), np.array(labels, "int64"), tuple(folder.name for folder in classes), ignored
    )


def split_folders(path):
    """The training and the validation folder of a tree that comes split.

    Args:
        path: Folder that may have `train` and, beside it, `val`, `valid`, `validation` or `test`.

    Returns:
        `(train, validation)` paths; `(train, None)` where there is only `train`, `(path, None)`
        where there is neither.
    """
    path = Path(path)
    if not (path / "train").is_dir():
        return path, None
    names = ("val", "valid", "validation", "test")
    found = next((path / name for name in names if (path / name).is_dir()), None)
    return path / "train", found


def check_same_classes(train, test):
    """Refuse a validation set of other classes than the training set's.

    Args:
        train: `ImageFiles`.
        test: `ImageFiles`.

    Raises:
        ValueError: Naming the classes that only one of them has.
    """
    only_train = sorted(set(train.class_names) - set(test.class_names))
    only_test = sorted(set(test.class_names) - set(train.class_names))
    if only_train or only_test:
        raise ValueError(
            "Training and validation folders must have the same classes. "
            f"Received: only in training {_some(only_train)}; only in validation {_some(only_test)}"
        )


def _files_below(folder):
    """Files that are not hidden, without a system call for each: ImageNet has a million."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return found


def _some(names):
    listed = ", ".join(names[:10]) or "none"
    return f"{listed} and {len(names) - 10} more" if len(names) > 10 else listed
