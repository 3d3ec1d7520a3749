"""Labels of images in a CSV file."""

import csv
import logging
from pathlib import Path

import numpy as np

from letkd_keras.data.class_folders import ImageFiles

log = logging.getLogger("letkd_keras")

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
        Dictionary of class names by file, in the order of the rows.

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


def labelled_images(root, path, train_folder, test_folder):
    """The images that a CSV file lists.

    Args:
        root: Folder that relative names of files are below.
        path: The CSV file, see `read_labels`.
        train_folder: Folder of the training images; `root` where it is not split.
        test_folder: Folder of the test images, or `None` where it is not split.

    Returns:
        `(train, test)`, two `ImageFiles` with the same classes, sorted by name; `test` is `None`
        without a test folder.

    Raises:
        FileNotFoundError: If a file that is listed does not exist.
        ValueError: If the CSV file is damaged, a file is in neither folder, a folder has none, or a
            class has no training image.
    """
    root, labels = Path(root), read_labels(path)
    classes = sorted(set(labels.values()))
    numbers = {name: number for number, name in enumerate(classes)}
    rows = sorted(
        ((root / file, numbers[label]) for file, label in labels.items()),
        key=lambda row: (row[1], row[0]),
    )
    missing = [str(file) for file, _ in rows if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"`labels` must list files below {str(root)!r}. Received: {len(missing)} files that do "
            f"not exist, the first one {missing[0]!r}"
        )

    def images(folder):
        own = [row for row in rows if folder in row[0].parents]
        return ImageFiles(
            tuple(file for file, _ in own),
            np.array([label for _, label in own], "int64"),
            tuple(classes),
            0,
            root,
        )

    if test_folder is None:
        return images(root), None
    train, test = images(Path(train_folder)), images(Path(test_folder))
    if len(train) + len(test) < len(rows):
        listed = {*train.files, *test.files}
        other = next(file for file, _ in rows if file not in listed)
        raise ValueError(
            f"`labels` must list files in {Path(train_folder).name} and {Path(test_folder).name}, "
            f"which are both there. Received: {str(other)!r}"
        )
    for folder, files in ((train_folder, train), (test_folder, test)):
        if not len(files):
            raise ValueError(
                f"`labels` must list files in {Path(train_folder).name} and in "
                f"{Path(test_folder).name}. Received: {str(path)!r} with none in "
                f"{Path(folder).name}"
            )
    for number, name in enumerate(classes):
        if number not in train.labels:
            raise ValueError(
                "`labels` must list a training image of each class. "
                f"Received: {str(path)!r} with none of {name!r}"
            )
    log.info("%s: %d training and %d test images", path, len(train), len(test))
    return train, test
