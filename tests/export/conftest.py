import numpy as np
import pytest
from random_students import with_kd_layers
from small_image_data import image_data

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


@pytest.fixture
def data_file(tmp_path):
    """This data set as an `.npz` file."""
    save_npz(image_data(), tmp_path / "blocks.npz")
    return tmp_path / "blocks.npz"
