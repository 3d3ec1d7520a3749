"""A data set as one `.npz` file, which can be read without TensorFlow."""

import zipfile
import zlib
from dataclasses import fields
from math import prod
from pathlib import Path
from tokenize import TokenError

import numpy as np

from letkd_keras import memory_mapped
from letkd_keras.data.image_data import ImageData, shape_of
from letkd_keras.files import open_atomic

# What reading a file raises that is no whole archive; RuntimeError, if it is encrypted.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)
_NAMES = [field.name for field in fields(ImageData)]
_OPTIONAL = {"x_validation", "y_validation"}
_TEXTS = ("name", "split")
_LISTS = ("mean", "std", "class_names")


def save_npz(data, path, dataset=None):
    """Write an `ImageData` to an `.npz` file, whole or not at all.

    Args:
        data: `ImageData`.
        path: The file.
        dataset: Key of the data set (`DataSpec.dataset`), which a later `DataSpec` of the file has;
            `None` for none.

    Raises:
        ValueError: If the data are streamed from disk.
    """
    if not isinstance(data, ImageData):
        raise ValueError(
            "`data` must be a data set in memory to be written as .npz. "
            f"Received: {type(data).__name__} {data.name!r}"
        )
    values = {name: getattr(data, name) for name in _NAMES}
    values["class_names"] = tuple(map(str, data.class_names))
    arrays = {name: value for name, value in values.items() if value is not None}
    if dataset is not None:
        arrays["dataset"] = dataset
    with open_atomic(path) as file:
        np.savez(file, **arrays)


def load_npz(path):
    """Read the `ImageData` that `save_npz` wrote.

    The file may come from elsewhere: nothing of it is executed, and the declared sizes are checked
    before anything is read.

    Args:
        path: The file.

    Returns:
        `ImageData`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, is damaged or larger than the memory, or an array has
            the wrong type, shape or range. The file and the array are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`data` must be an existing .npz file. Received: {str(path)!r}")
    try:
        values = _read(path)
        for name in _TEXTS:
            if values[name].dtype.kind != "U" or values[name].ndim:
                raise ValueError(f"`{name}` must be a text. Received: {shape_of(values[name])}")
            values[name] = str(values[name])
        for name in _LISTS:
            kinds = "U" if name == "class_names" else "fiu"
            if values[name].dtype.kind not in kinds or values[name].ndim != 1:
                kind = "texts" if name == "class_names" else "numbers"
                raise ValueError(
                    f"`{name}` must be a list of {kind}. Received: {shape_of(values[name])}"
                )
            values[name] = tuple(values[name].tolist())
        if len(_OPTIONAL & set(values)) == 1:
            raise ValueError("`x_validation` and `y_validation` must be given together")
        return ImageData(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def dataset_in_npz(path):
    """The key of the data set that was written to such a file, without reading its images.

    Args:
        path: The file.

    Returns:
        A text, or `None` for a file without one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            key = _read_array(archive, archive.getinfo("dataset.npy"), "dataset")
    except (*_DAMAGED, KeyError, ValueError):
        return None
    return str(key) if key.dtype.kind == "U" and not key.ndim else None


def _read(path):
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if missing := sorted(set(_NAMES) - _OPTIONAL - set(entries)):
                raise ValueError(
                    "The file must be one that `python -m letkd_keras.data` wrote. "
                    f"Received: a file without {', '.join(missing)}"
                )
            entries = {name: entries[name] for name in sorted(set(_NAMES) & set(entries))}
            _check_total(entries.values())
            return {name: _read_array(archive, entry, name) for name, entry in entries.items()}
    except _DAMAGED as e:
        raise ValueError(f"The file must be a whole .npz file ({e})") from e


def _check_total(entries):
    total, memory = sum(entry.file_size for entry in entries), memory_mapped.physical_memory()
    if total > memory:
        raise ValueError(
            f"The arrays must fit into the memory of {memory:,} bytes. Received: {total:,} bytes"
        )


def _read_array(archive, entry, name):
    """Read an array whose header agrees with the size of its entry."""
    with archive.open(entry) as file:
        shape, dtype = _read_header(file, name)
        size = prod(shape) * dtype.itemsize
        if dtype.hasobject or size != entry.file_size - file.tell():
            raise ValueError(
                f"`{name}` must be numbers or texts of the declared size. Received: {dtype} of "
                f"shape {shape} in {entry.file_size:,} bytes"
            )
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_header(file, name):
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
    except (ValueError, KeyError, TokenError) as error:  # Python 3.12's for a damaged header
        raise ValueError(f"`{name}` must be a NumPy array ({error})") from error
    return shape, dtype
