from types import SimpleNamespace

import keras
import pytest

from letkd_keras import KD, models


def _distiller():
    student, teacher = (models.build("resnet8", 3, (8, 8, 3)) for _ in range(2))
    return KD(student, teacher)


@pytest.fixture
def two_cpu_replicas(monkeypatch):
    """As a model made in the scope of a strategy sees it; `test_replicas` has a true one."""
    devices = tuple(f"/job:localhost/replica:0/task:0/device:CPU:{number}" for number in range(2))
    extended = SimpleNamespace(worker_devices=devices)
    strategy = SimpleNamespace(num_replicas_in_sync=2, extended=extended)
    monkeypatch.setattr(keras.Model, "distribute_strategy", strategy)


@pytest.mark.parametrize(
    ("name", "value", "usable"), [("steps_per_execution", 4, 1), ("jit_compile", True, False)]
)
def test_what_keras_fails_at_on_cpu_replicas_is_refused(two_cpu_replicas, name, value, usable):
    distiller = _distiller()
    with pytest.raises(ValueError, match=rf"`{name}` must be {usable} .*Received: {name}={value}"):
        distiller.compile("sgd", "mse", **{name: value})
    distiller.compile("sgd", "mse", **{name: usable})


def test_one_device_takes_both():
    distiller = _distiller()
    distiller.compile("sgd", "mse", steps_per_execution=4, jit_compile=True)
    assert (distiller.steps_per_execution, distiller.jit_compile) == (4, True)
