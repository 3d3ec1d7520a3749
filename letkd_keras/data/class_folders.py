"""Trees of images with a folder for each class, as lists of files and labels."""

import hashlib
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

# Suffixes of the image files that TensorFlow decodes, and of all that Pillow does.
OF_TENSORFLOW = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif"})
_OF_PILLOW = OF_TENSORFLOW | {".webp", ".tif", ".tiff", ".ppm", ".avif"}
# Names of the folders of a tree that is already split, in lower case: name -> split.
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class ImageFiles:
    """Image files and their classes.

    Attributes:
        files: Paths, class by class, in the order of their names.
        labels: Class of each, int64 [N].
        class_names: Names of the class folders, sorted: the classes 0, 1, ...
        root: Folder of the class folders.
    """

    files: tuple
    labels: np.ndarray
    class_names: tuple
    root: Path

    def __len__(self):
        return len(self.files)

    def select(self, chosen):
        """The same classes with only the files of the chosen indices or slice."""
        indices = np.arange(len(self))[chosen]
        files = tuple(self.files[index] for index in indices)
        return replace(self, files=files, labels=self.labels[indices])

    def first_classes(self, classes):
        """The files of the first classes only."""
        few = self.select(self.labels < classes)
        return replace(few, class_names=self.class_names[:classes])

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
    return frozenset(suffix for suffix in _OF_PILLOW if suffix in readable)


def find_images(path, suffixes=None):
    """Find the images of a tree whose folders are the classes.

    Each folder of `path` is a class with the name of the folder, numbered in the order of the
    names. All images below it, at any depth, belong to it. Links to folders are followed, but no
    folder is read twice. Files that are not images by their suffix, or not regular files, are
    ignored with a warning that counts them by suffix. Hidden files and folders are ignored without
    one.

    Args:
        path: The folder of the class folders.
        suffixes: Suffixes of images, in lower case; `None` for `image_suffixes()`.

    Returns:
        `ImageFiles`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has fewer than two class folders, the name of one is not valid UTF-8 or
            has other white space than single spaces, all have names of splits, two of them are the
            same folder, or one has no image.
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
        _check_class_name(folder.name)
    _check_no_splits(path, [folder.name for folder in classes])
    visited = _identities(path, classes)
    files, labels, ignored = [], [], [entry for entry in entries if not entry.is_dir()]
    for label, folder in enumerate(classes):
        images, others = _images_below(folder, visited, suffixes)
        if not images:
            raise ValueError(
                f"Every class folder must have images ({', '.join(sorted(suffixes))}). "
                f"Received: {str(folder)!r} with none among {len(others)} files"
            )
        ignored += others
        files += images
        labels += [label] * len(images)
    _warn_of_ignored(path, ignored)
    names = tuple(folder.name for folder in classes)
    return ImageFiles(tuple(files), np.array(labels, "int64"), names, path)


def find_unlabelled(path):
    """Find all images of a tree, whatever their folders are.

    Args:
        path: Folder of images, at any depth. As in `find_images`, other files are ignored with a
            warning and hidden ones without.

    Returns:
        List of paths, sorted.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no image, or its name is not valid UTF-8.
    """
    path, suffixes = Path(path), image_suffixes()
    if not path.is_dir():
        raise FileNotFoundError(f"`unlabelled` must be an existing folder. Received: {str(path)!r}")
    check_utf8(path.name, "`unlabelled`")
    images, ignored = _images_below(path, {_identity(path)}, suffixes)
    if not images:
        raise ValueError(
            f"`unlabelled` must be a folder with images ({', '.join(sorted(suffixes))}). "
            f"Received: {str(path)!r} with none among {len(ignored)} files"
        )
    _warn_of_ignored(path, ignored)
    return images


def is_searched(path, folder):
    """Whether images are looked for in `path`, which need not exist, if they are in `folder`."""
    path, folder = Path(path).resolve(), Path(folder).resolve()
    if not path.is_relative_to(folder):
        return False
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def split_folders(path):
    """The folders of a tree that is already split.

    Args:
        path: Folder that may have `train` (or `training`) and, beside it, `val` (or `valid`,
            `validation`), `test` (or `testing`) or both, in any case.

    Returns:
        Dictionary of folders by split. `test` is the folder beside `train`, whatever its name;
        where there are both, `val` is `validation`. It has only `train` if there is no folder
        beside it, and that is `path` if there is no folder `train`, or only one that is a class:
        without folders in it, beside no other split.
    """
    path, found = Path(path), {}
    for folder in visible_folders(path):
        if split := _SPLITS.get(folder.name.lower()):
            found.setdefault(split, folder)
    train = found.pop("train", None)
    if train is None or not (found or visible_folders(train)):
        return {"train": path}
    if len(found) == 2:
        return {"train": train, "validation": found["validation"], "test": found["test"]}
    return {"train": train, **({"test": found.popitem()[1]} if found else {})}


def warn_of_other_folders(path, folders):
    """Warn of folders beside those of the splits, whose images are not used.

    Args:
        path: The tree.
        folders: Folders by split (`split_folders`).
    """
    path = Path(path)
    if folders["train"] == path:
        return
    others = [folder.name for folder in visible_folders(path) if folder not in folders.values()]
    if others:
        log.warning(
            "%s: folders beside %s are not used: %s", path, folders["train"].name, _some(others)
        )


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
    """Refuse validation or test images whose classes are not those of the training images.

    Args:
        train: `ImageFiles`.
        test: `ImageFiles`.

    Raises:
        ValueError: Naming the classes that only one of them has.
    """
    only_train = sorted(set(train.class_names) - set(test.class_names))
    only_test = sorted(set(test.class_names) - set(train.class_names))
    if only_train or only_test:
        names = train.root.name, test.root.name
        raise ValueError(
            f"The folders {names[0]} and {names[1]} must have the same classes. Received: "
            f"only in {names[0]} {_some(only_train)}; only in {names[1]} {_some(only_test)}"
        )


def warn_of_class_names(path, class_names):
    """Warn of names that may not be the classes, or in the order, that were meant.

    These are names that differ only in upper and lower case, and whole numbers that are not in the
    order of their values.

    Args:
        path: Where the names come from.
        class_names: Names of the classes, in the order of texts.
    """
    first = {}
    for name in class_names:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            log.warning("%s: the classes %s and %s differ only in case", path, other, name)
    if all(map(str.isdecimal, class_names)) and list(class_names) != sorted(class_names, key=int):
        log.warning(
            "%s: the classes are in the order of texts, not of numbers: %s",
            path,
            _some(class_names),
        )


def check_utf8(name, what):
    """Refuse the name of a folder that could not be written to reports and exported files.

    Raises:
        ValueError: If it is not valid UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{what} must have a name that is valid UTF-8. Received: {name!a}"
        ) from error


def visible_folders(path):
    """Folders in `path` that are not hidden, sorted by name, lower case first."""
    if not path.is_dir():
        return []
    entries = sorted(path.iterdir(), key=lambda entry: entry.name.swapcase())
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _check_no_splits(path, names):
    """Refuse folders that all seem to be splits, of at least two kinds, as classes."""
    kinds = [
        {_SPLITS[word] for word in re.split(r"[\W\d_]+", name.lower()) if word in _SPLITS}
        for name in names
    ]
    if all(kinds) and len(set.union(*kinds)) > 1:
        raise ValueError(
            "`path` must have class folders, or a folder named train with class folders beside one "
            f"named val or test. Received: {str(path)!r} with {_some(names)}"
        )


def _check_class_name(name):
    """Refuse a name that tables and lists of classes could not have as it is."""
    check_utf8(name, "A class folder")
    if name != " ".join(name.split()):
        raise ValueError(
            "A class folder must have a name without other white space than single spaces. "
            f"Received: {name!a}"
        )


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


def _images_below(folder, visited, suffixes):
    """Image files, sorted, and the other files that are not hidden, as two lists of paths."""
    regular, others = _files_below(folder, visited)
    images, ignored = [], others
    for file in map(Path, sorted(regular)):
        (images if file.suffix.lower() in suffixes else ignored).append(file)
    return images, ignored


def _files_below(folder, visited):
    """Regular files that are not hidden, and the other entries, as strings.

    Links to folders in `visited`, to which all folders are added, are not followed. There is no
    system call for each file: ImageNet has more than a million.
    """
    regular, others, folders = [], [], [str(folder)]
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
                    others.append(entry.path)
    return regular, others


def _kind(entry):
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link to itself
        return "other"


def _warn_of_ignored(path, files):
    if files:
        counts = Counter(Path(file).suffix.lower() or "no suffix" for file in files)
        listed = _some([f"{suffix} ({count})" for suffix, count in counts.most_common()])
        log.warning("%s: %d files that are not images were ignored: %s", path, len(files), listed)


def _some(names):
    listed = ", ".join(names[:10]) or "none"
    return f"{listed} and {len(names) - 10} more" if len(names) > 10 else listed
