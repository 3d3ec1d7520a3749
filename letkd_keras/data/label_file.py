"""Labels of images in a CSV file."""

import csv
import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np

from letkd_keras.data.class_folders import ImageFiles, without_test_folder

log = logging.getLogger(__name__)

_COLUMNS = ("file", "label")


def read_labels(path):
    """Read the labels of image files from a CSV file.

        file,label
        beach/0001.jpg,sunset
        0002.jpg,city

    Args:
        path: The file: UTF-8, with a header that has the columns `file` and `label`, separated by
            commas or semicolons; other columns are ignored.

    Returns:
        Dictionary of class names by file, in the order of the rows. White space within a name is
        one space.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a row has no file or no label, or a file has two rows.
            The line is named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`labels` must be an existing CSV file. Received: {str(path)!r}")
    labels = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            delimiter = ";" if header.count(";") > header.count(",") else ","
            reader = csv.DictReader(file, delimiter=delimiter)
            names = [name.strip() for name in reader.fieldnames or []]
            if not set(_COLUMNS) <= set(names):
                raise ValueError(
                    "`labels` must be a CSV file with the columns file and label. "
                    f"Received: {str(path)!r} with the columns {', '.join(names) or 'none'}"
                )
            reader.fieldnames = names
            for row in reader:
                image, label = ((row[column] or "").strip() for column in _COLUMNS)
                # Tables and lists of classes have names of one line.
                label = " ".join(label.split())
                problem = None
                if not image or not label:
                    problem = f"no {'label' if image else 'file'}"
                elif image in labels:
                    problem = f"a second row for {image!r}"
                if problem:
                    raise ValueError(
                        "`labels` must have one row with file and label for each image. "
                        f"Received: {problem} in line {reader.line_num} of {str(path)!r}"
                    )
                labels[image] = label
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"`labels` must be a CSV file in UTF-8. Received: {str(path)!r} ({error})"
        ) from error
    if len(set(labels.values())) < 2:
        raise ValueError(
            "`labels` must have at least two classes. "
            f"Received: {str(path)!r} with {len(set(labels.values()))}"
        )
    return labels


def labelled_images(root, path, folders):
    """The images that a CSV file lists.

    Args:
        root: Folder that relative names of files are below.
        path: The CSV file, see `read_labels`.
        folders: Folders by split (`letkd_keras.data.class_folders.split_folders`).

    Returns:
        `(files, folders)`: `ImageFiles` by split, with the same classes, sorted by name, and their
        folders. Where `test` is beside `validation` and has no image in the list, `validation` is
        the test split.

    Raises:
        FileNotFoundError: If a file that is listed does not exist.
        ValueError: If the CSV file is damaged, a file is in none of the folders or is listed twice,
            a folder has none, or a class has no training image.
    """
    root, labels = Path(os.path.normpath(root)), read_labels(path)
    folders = {split: Path(os.path.normpath(folder)) for split, folder in folders.items()}
    class_names = tuple(sorted(set(labels.values())))
    numbers = {name: number for number, name in enumerate(class_names)}
    rows = _listed_files(root, path, labels)
    _check_in_folders([file for _, file in rows], root, folders.values())

    def images(folder):
        own = [(numbers[label], file) for label, file in rows if folder in file.parents]
        files = tuple(file for _, file in own)
        return ImageFiles(files, np.array([n for n, _ in own], "int64"), class_names, root)

    if "validation" in folders and not len(images(folders["test"])):
        folders = without_test_folder(folders, f"{path} has no images in {folders['test']}")
    found = {split: images(folder) for split, folder in folders.items()}
    _check_not_empty(found, path, folders)
    # Images without splits are split later.
    sizes = [f"{len(files)} {split}" for split, files in found.items()]
    log.info("%s: %s images", path, ", ".join(sizes) if len(found) > 1 else len(rows))
    return found, folders


def _listed_files(root, path, labels):
    """`(label, file)` of all rows, by label and then by path.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is listed twice.
    """
    # By path: "./a.png" and "a.png" are the same file.
    rows = sorted((label, Path(os.path.normpath(root / file))) for file, label in labels.items())
    missing = [str(file) for _, file in rows if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"`labels` must list files below {str(root)!r}. Received: {len(missing)} files that do "
            f"not exist, the first one {missing[0]!r}"
        )
    counts = Counter(file for _, file in rows)
    twice = next((file for file, count in counts.items() if count > 1), None)
    if twice is not None:
        raise ValueError(
            "`labels` must have one row with file and label for each image. "
            f"Received: several rows for {str(twice)!r} in {str(path)!r}"
        )
    return rows


def _check_in_folders(files, root, folders):
    """Refuse files that are in none of the folders."""
    other = next((file for file in files if not set(folders) & set(file.parents)), None)
    if other is not None:
        names = [folder.name for folder in folders]
        place = f"in {' and '.join(names)}, which are all there" if names[1:] else f"below {root}"
        raise ValueError(f"`labels` must list files {place}. Received: {str(other)!r}")


def _check_not_empty(found, path, folders):
    """Refuse a split without images, and a class without training images."""
    for split, files in found.items():
        if not len(files):
            names = " and in ".join(folder.name for folder in folders.values())
            raise ValueError(
                f"`labels` must list files in {names}. "
                f"Received: {str(path)!r} with none in {folders[split].name}"
            )
    train = found["train"]
    for number, name in enumerate(train.class_names):
        if number not in train.labels:
            raise ValueError(
                "`labels` must list a training image of each class. "
                f"Received: {str(path)!r} with none of {name!r}"
            )
