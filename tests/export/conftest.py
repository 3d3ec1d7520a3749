import numpy as np
import pytest
from random_students import with_kd_layers

from letkd_keras.data import ImageData
from letkd_keras.data.npz import save_npz


@pytest.fixture(scope="session")
def student():
    """A small student: resnet8 with 24 and 16 templates, 5 classes, images of 16x16."""
    return with_kd_layers("resnet8")


@pytest.fixture(scope="session")
def images():
    """Six images of noise, as the small student takes them."""
    return np.random.default_rng(1).standard_normal((6, 16, 16, 3)).astype("float32")


@pytest.fixture(scope="session")
def labels(student, images):
    """The classes that the small student gives these images."""
    return np.asarray(student(images)).argmax(-1)


def image_data(**changes):
    """A data set for the small student: 60 training and 30 test images, ordered by class."""
    rng = np.random.default_rng(2)
    y_train, y_test = np.repeat(np.arange(5), 12), np.repeat(np.arange(5), 6)
    fields = {
        "name": "blocks",
        "x_train": rng.integers(0, 256, (60, 16, 16, 3), "uint8"),
        "y_train": y_train,
        "x_test": rng.integers(0, 256, (30, 16, 16, 3), "uint8"),
        "y_test": y_test,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.25, 0.3),
        "class_names": tuple("abcde"),
        "split": "made for tests",
    }
    return ImageData(**{**fields, **changes})


@pytest.fixture
def data_file(tmp_path):
    """This data set as an `.npz` file."""
    save_npz(image_data(), tmp_path / "blocks.npz")
    return tmp_path / "blocks.npz"
