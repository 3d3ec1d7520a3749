"""Every network of the zoo in turn, built once for all tests that look at a fresh one."""

import keras
import pytest

from letkd_keras import models


@pytest.fixture(scope="session", params=models.names())
def network(request):
    """A network of the zoo with 100 classes and fresh weights."""
    keras.utils.set_random_seed(0)
    return models.build(request.param, num_classes=100)
