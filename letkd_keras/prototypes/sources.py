"""Training images for the command line, by name."""

import zipfile
from pathlib import Path

import numpy as np

from letkd_keras.data import load_cifar, load_digits
from letkd_keras.data.normalization import scale_and_shift

# Names under which an .npz file may hold its images and labels.
_NAMES = (("x_train", "y_train"), ("images", "labels"), ("x", "y"))


def open_data(name, data_dir=None, train_examples=None):
    """Training images and labels as they come, and what makes them the teacher's input.

    Args:
        name: `"digits"`, `"tfds:NAME"` (prepared in `data_dir`), or the path of an `.npz` file with
            arrays `x_train` and `y_train` (or `images`/`labels`, `x`/`y`). Images of an `.npz` are
            taken as they are if they are floats; if uint8, they are divided by 255 and normalised
            with the file's `mean` and `std` where it has them.
        data_dir: Folder of tensorflow-datasets.
        train_examples: Number of training images, classes in proportion, or `None` for all.

    Returns:
        `(images, labels, preprocess, class_names)`; `preprocess` and `class_names` may be `None`.

    Raises:
        ValueError: If the name is of no known kind, or the file is damaged or lacks the arrays.
        FileNotFoundError: If there is no such file or data set.
    """
    if name == "digits":
        data = load_digits()
    elif name.startswith("tfds:"):
        data = load_cifar(name.removeprefix("tfds:"), data_dir)
    elif name.endswith(".npz"):
        if train_examples is not None:
            raise ValueError("`train_examples` goes with 'digits' and 'tfds:NAME', not with .npz")
        return _open_npz(Path(name))
    else:
        raise ValueError(
            f"`data` must be 'digits', 'tfds:NAME' or an .npz file. Received: data={name!r}"
        )
    data = data.subset(train_examples=train_examples)
    return data.x_train, data.y_train, _normaliser(data.mean, data.std), data.class_names


def _open_npz(path):
    if not path.is_file():
        raise FileNotFoundError(f"No data set at {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a whole .npz file")
    with np.load(path, allow_pickle=False) as file:
        pair = next((names for names in _NAMES if set(names) <= set(file.files)), None)
        if pair is None:
            raise ValueError(
                f"{path} must hold arrays x_train and y_train (or images and labels, or x and y). "
                f"Received: {', '.join(file.files)}"
            )
        images, labels = (file[name] for name in pair)
        mean, std = file.get("mean", 0.0), file.get("std", 1.0)
    preprocess = None
    if images.dtype == np.uint8:
        preprocess = _normaliser(mean, std)
    return images, labels, preprocess, None


def _normaliser(mean, std):
    """A function from uint8 [B, H, W, C] to normalised float32."""
    scale, shift = scale_and_shift(mean, std)
    return lambda images: images.astype("float32") * scale + shift
