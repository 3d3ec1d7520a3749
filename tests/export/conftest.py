import numpy as np
import pytest
from random_students import with_kd_layers


@pytest.fixture(scope="session")
def student():
    """A small student: resnet8 with 24 and 16 templates, 5 classes, images of 16x16."""
    return with_kd_layers("resnet8")


@pytest.fixture(scope="session")
def images():
    """Six images of noise, as the small student takes them."""
    return np.random.default_rng(1).standard_normal((6, 16, 16, 3)).astype("float32")
