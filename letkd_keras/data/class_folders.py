"""Trees of images with a folder for each class, as lists of files and labels."""

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

log = logging.getLogger("letkd_keras")

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".avif")


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their classes.

    Attributes:
        files: Paths, class by class, in the order of their names.
        labels: Class of each, int64 [N].
        class_names: Names of the class folders, sorted: the classes 0, 1, ...
        ignored: Number of files in the tree that are not images.
        root: Folder of the class folders.
    """

    files: tuple
    labels: np.ndarray
    class_names: tuple
    ignored: int
    root: Path

    def __len__(self):
        return len(self.files)

    def select(self, chosen):
        """The same classes with only the files of the chosen indices or slice."""
        indices = np.arange(len(self))[chosen]
        files = tuple(self.files[index] for index in indices)
        return ImageFiles(files, self.labels[indices], self.class_names, self.ignored, self.root)

    def first_classes(self, classes):
        """The files of the first classes only."""
        few = self.select(self.labels < classes)
        return ImageFiles(
            few.files, few.labels, self.class_names[:classes], self.ignored, self.root
        )

    def digest(self):
        """SHA-256 of names (below the root), sizes and labels of the files, in hexadecimal."""
        digest = hashlib.sha256()
        for file, label in zip(self.files, self.labels, strict=True):
            name = os.fsencode(Path(file).relative_to(self.root).as_posix())
            digest.update(name + f"\0{Path(file).stat().st_size}\0{label}\n".encode())
        return digest.hexdigest()


@cache
def image_suffixes():
    """Suffixes of the image files that the installed Pillow reads, in lower case."""
    from PIL import Image

    readable = Image.registered_extensions()
    return frozenset(suffix for suffix in _SUFFIXES if suffix in readable)


def find_images(path, suffixes=None):
    """Find the images of a tree whose folders are the classes.

    Each folder of `path` is a class with the name of the folder, numbered in the order of the
    names. All images below it, at any depth, belong to it. Links to folders are followed, but no
    folder is read twice. Files that are not images by their suffix, or not regular files, are
    ignored with a warning that counts them. Hidden files and folders are ignored without one.

    Args:
        path: The folder of the class folders.
        suffixes: Suffixes of images, in lower case; `None` for `image_suffixes()`.

    Returns:
        `ImageFiles`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has fewer than two class folders, the name of one is not valid UTF-8, two
            of them are the same folder, or one has no image.
    """
    path, suffixes = Path(path), image_suffixes() if suffixes is None else suffixes
    if not path.is_dir():
        raise FileNotFoundError(
            f"`path` must be a folder of class folders. Received: {str(path)!r}"
        )
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    classes = sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)
    if len(classes) < 2:
        raise ValueError(
            f"`path` must have a folder for each of at least two classes. Received: {str(path)!r} "
            f"with {', '.join(folder.name for folder in classes) or 'no folder'}"
        )
    for folder in classes:
        _check_name(folder.name)
    visited = _identities(path, classes)
    files, labels, ignored = [], [], len(entries) - len(classes)
    for label, folder in enumerate(classes):
        regular, others = _files_below(folder, visited)
        images = sorted(file for file in regular if Path(file).suffix.lower() in suffixes)
        if not images:
            raise ValueError(
                f"Every class folder must have images ({', '.join(sorted(suffixes))}). "
                f"Received: {str(folder)!r} with none among {len(regular) + others} files"
            )
        ignored += len(regular) + others - len(images)
        files += [Path(file) for file in images]
        labels += [label] * len(images)
    if ignored:
        log.warning("%s: %d files that are not images were ignored", path, ignored)
    names = tuple(folder.name for folder in classes)
    return ImageFiles(tuple(files), np.array(labels, "int64"), names, ignored, path)


def find_unlabelled(path, suffixes=None):
    """Find all images of a tree, whatever their folders are.

    Args:
        path: Folder of images, at any depth. As in `find_images`, other files are ignored with a
            warning and hidden ones without.
        suffixes: Suffixes of images, in lower case; `None` for `image_suffixes()`.

    Returns:
        List of paths, sorted.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no image.
    """
    path, suffixes = Path(path), image_suffixes() if suffixes is None else suffixes
    if not path.is_dir():
        raise FileNotFoundError(f"`unlabelled` must be an existing folder. Received: {str(path)!r}")
    regular, others = _files_below(path, {_identity(path)})
    images = sorted(Path(file) for file in regular if Path(file).suffix.lower() in suffixes)
    ignored = len(regular) + others - len(images)
    if not images:
        raise ValueError(
            f"`unlabelled` must be a folder with images ({', '.join(sorted(suffixes))}). "
            f"Received: {str(path)!r} with none among {ignored} files"
        )
    if ignored:
        log.warning("%s: %d files that are not images were ignored", path, ignored)
    return images


def split_folders(path):
    """The folders of a tree that is already split.

    Args:
        path: Folder that may have `train` and, beside it, `val` (or `valid`, `validation`), `test`
            or both.

    Returns:
        Dictionary of folders by split. `test` is the folder beside `train`, whatever its name;
        where there are both, `val` is `validation`. It has only `train` if there is no folder
        beside it, and that is `path` if there is no folder `train`.
    """
    path = Path(path)
    if not (path / "train").is_dir():
        return {"train": path}
    names = ("val", "valid", "validation", "test")
    others = [path / name for name in names if (path / name).is_dir()]
    if not others:
        return {"train": path / "train"}
    if len(others) > 1 and others[-1].name == "test":
        return {"train": path / "train", "validation": others[0], "test": others[-1]}
    return {"train": path / "train", "test": others[0]}


def without_test_folder(folders, reason):
    """The same splits where the folder `test` cannot be used: `validation` is the test split.

    Args:
        folders: Values by split, with `validation` and `test`.
        reason: Why, for the log.

    Returns:
        The values of `train` and `test`.
    """
    log.warning("%s; it is not used, and the test images are the validation images", reason)
    return {"train": folders["train"], "test": folders["validation"]}


def check_same_classes(train, test):
    """Refuse validation images whose classes are not those of the training images.

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


def _check_name(name):
    """Refuse a name that could not be written to reports and exported files."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Names of class folders must be valid UTF-8. Received: {name!a}"
        ) from error


def _identities(path, classes):
    """Identities of the root and the class folders, which no link may lead to again."""
    identities = {_identity(path): path}
    for folder in classes:
        other = identities.setdefault(_identity(folder), folder)
        if other is not folder:
            raise ValueError(
                f"Class folders must be different folders. Received: {str(folder)!r}, which is "
                f"{str(other)!r}"
            )
    return set(identities)


def _identity(folder):
    status = os.stat(folder)  # noqa: PTH116 - a string or a path
    return status.st_dev, status.st_ino


def _files_below(folder, visited):
    """Regular files that are not hidden, as strings, and the number of other entries.

    Links to folders in `visited`, to which all folders are added, are not followed. There is no
    system call for each file: ImageNet has more than a million.
    """
    regular, others, folders = [], 0, [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                kind = _kind(entry)
                if kind == "folder":
                    identity = _identity(entry.path)
                    if identity in visited:
                        log.warning("%s: this folder is already part of the tree", entry.path)
                    else:
                        visited.add(identity)
                        folders.append(entry.path)
                elif kind == "file":
                    regular.append(entry.path)
                else:
                    others += 1
    return regular, others


def _kind(entry):
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself
        return "other"


def _some(names):
    listed = ", ".join(names[:10]) or "none"
    return f"{listed} and {len(names) - 10} more" if len(names) > 10 else listed
