"""Every method under the dtype policies that a user may set."""

import keras
import numpy as np
import pytest

from letkd_keras import LetKD
from letkd_keras.distillers import AT, CRD, DKD, KD, SP, VID, Distiller, FitNet, HintedLetKD, SimKD

HINT = {"student_hint_layer": "intermediate", "teacher_hint_layer": "intermediate"}
LAYERS = {"student_layers": ("penultimate",), "teacher_layers": ("penultimate",)}
METHODS = {
    "Distiller": lambda s, student: Distiller(s.teacher, student),
    "KD": lambda s, student: KD(s.teacher, student),
    "DKD": lambda s, student: DKD(s.teacher, student),
    "LetKD": lambda s, student: LetKD(s.teacher, student, s.prototypes),
    "LetKD in blocks": lambda s, student: LetKD(s.teacher, student, s.prototypes, block_size=4),
    "HintedLetKD": lambda s, student: HintedLetKD(s.teacher, student, s.prototypes, **HINT),
    "FitNet": lambda s, student: FitNet(s.teacher, student, **LAYERS),
    "AT": lambda s, student: AT(s.teacher, student, **LAYERS),
    "SP": lambda s, student: SP(s.teacher, student, **LAYERS),
    "VID": lambda s, student: VID(s.teacher, student, **LAYERS),
    "CRD": lambda s, student: CRD(s.teacher, student, s.y, dimension=4, negatives=6, **LAYERS),
    "SimKD": lambda s, student: SimKD(s.teacher, student, **LAYERS),
}


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize("name", METHODS)
def test_mixed_precision_trains_and_evaluates(name, policy, setting):
    model = METHODS[name](setting, setting.student())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3), loss, run_eagerly=True)
    x = setting.x
    if name == "CRD":
        x = {"image": x, "row": np.arange(len(x), dtype="int32")}
    logs = model.fit(x, setting.y, batch_size=6, epochs=2, verbose=0).history
    assert {"loss", "task_loss"} <= set(logs)
    assert np.isfinite(list(logs.values())).all(), logs
    assert np.isfinite(model.evaluate(setting.x, setting.y, verbose=0))
    assert model.student.compute_dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize("name", ["KD", "HintedLetKD", "FitNet", "VID", "CRD"])
def test_a_loaded_distiller_computes_in_the_policy_that_it_was_made_under(name, policy, setting):
    model = METHODS[name](setting, setting.student())
    keras.config.set_dtype_policy("float32")
    loaded = type(model).from_config(model.get_config())
    made, restored = ([layer.compute_dtype for layer in m.layers] for m in (model, loaded))
    assert made == restored
    assert keras.config.dtype_policy().name == "float32"


def test_a_dtype_of_the_distiller_alone_is_not_that_of_its_adapters(setting):
    model = FitNet(setting.teacher, setting.student(), dtype="float16", **LAYERS)
    loaded = FitNet.from_config(model.get_config())
    for each in (model, loaded):
        assert each.dtype_policy.name == "float16"
        assert {weight.dtype for weight in each.weights} == {"float32"}


def test_a_step_under_a_scaled_loss_is_that_of_float32(setting):
    changes = []
    before = keras.config.dtype_policy()
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = KD(setting.teacher, setting.student())
        finally:
            keras.config.set_dtype_policy(before)
        kernel = model.student.get_layer("fc").kernel
        start = kernel.numpy().copy()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        model.train_on_batch(setting.x, setting.y)
        changes.append(kernel.numpy() - start)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled and np.abs(changes[0]).max() > 1e-3
    np.testing.assert_allclose(changes[1], changes[0], rtol=0.05, atol=1e-4)
