"""A data set of images as one `.npz` file, read where there is no TensorFlow."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from letkd_keras.data.image_data import ImageData
from letkd_keras.files import open_atomic


def save_npz(data, path):
    """Write an `ImageData` to a `.npz` file, whole or not at all."""
    found = {field.name: getattr(data, field.name) for field in fields(data)}
    arrays = {name: value for name, value in found.items() if value is not None}
    with open_atomic(path) as file:
        np.savez(file, **arrays)


def load_npz(path, name=None):
    """The `ImageData` of a file that `save_npz` wrote.

    Args:
        path: The file.
        name: Name that the data set must have, or `None` for any.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it holds something else or another data set.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No file of images at {str(path)!r}.")
    needed = {field.name for field in fields(ImageData)} - {"x_validation", "y_validation"}
    try:
        with np.load(path) as file:
            found = dict(file)
    except (ValueError, OSError) as error:
        raise ValueError(f"`path` must be a .npz file. Received: {str(path)!r}") from error
    if missing := sorted(needed - set(found)):
        raise ValueError(
            "`path` must be a file that `python -m letkd_keras.data` wrote. "
            f"Received: {str(path)!r} without {', '.join(missing)}"
        )
    for text in ("name", "split"):
        found[text] = str(found[text])
    for numbers in ("mean", "std", "class_names"):
        found[numbers] = tuple(found[numbers].tolist())
    if name not in (None, found["name"]):
        raise ValueError(f"`path` must hold {name}. Received: {str(path)!r} of {found['name']}")
    return ImageData(**found)
