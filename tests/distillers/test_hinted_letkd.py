import keras
import numpy as np
import pytest

from letkd_keras import KDLayer, insert_kd_layers
from letkd_keras.distillers import FitNet, HintedLetKD, LetKD


def _made(setting, **options):
    model = HintedLetKD(setting.student(), setting.teacher, setting.prototypes, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
    return model


def test_it_is_letkd_at_the_intermediate_level_and_a_hint_behind_its_layer(setting):
    model = _made(setting, hint_weight=3.0)
    learned, taught = model.learn(setting.x), model.teach(setting.x, setting.y)
    losses = model.distillation_losses(learned, taught)
    assert sorted(losses) == ["hint", "kl_intermediate"]
    alone = LetKD(model.student, setting.teacher, setting.prototypes, penultimate=None)
    expected = alone.distillation_losses(alone.learn(setting.x), taught)["kl_intermediate"]
    assert float(losses["kl_intermediate"]) == pytest.approx(float(expected), rel=1e-5)
    # What the regressor is given is x_hat, and what it is to meet the teacher's features.
    layer = model.student.get_layer("kd_intermediate")
    head = keras.Model(model.student.inputs[0], layer.output)
    x_hat = head(setting.x, training=True)
    np.testing.assert_allclose(learned["intermediate_features"], x_hat, rtol=1e-4, atol=1e-5)
    theirs = keras.Model(
        setting.teacher.inputs[0], setting.teacher.get_layer("intermediate").output
    )(setting.x, training=False)
    regressed = np.asarray(model.regressor(x_hat, training=True))
    hint = np.square(regressed - np.asarray(theirs)).mean()
    assert float(losses["hint"]) == pytest.approx(hint, rel=1e-4)
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    total = logs["task_loss"] + 3 * logs["hint"] + logs["kl_intermediate"]
    assert float(logs["loss"]) == pytest.approx(float(total), rel=1e-5)


def test_saved_and_loaded_it_trains_on(setting, tmp_path):
    model = _made(setting)
    model.train_on_batch(setting.x, setting.y)
    model.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    loaded.run_eagerly = True
    for m in (model, loaded):
        m.reset_metrics()
    logs = [m.train_on_batch(setting.x, setting.y, return_dict=True) for m in (model, loaded)]
    assert sorted(logs[0]) == sorted(logs[1]) == ["hint", "kl_intermediate", "loss", "task_loss"]
    for name in logs[0]:
        assert float(logs[0][name]) == pytest.approx(float(logs[1][name]), rel=1e-4)


def test_a_hint_can_pass_through_a_layer_that_nothing_supervises(setting):
    student = insert_kd_layers(setting.student(), intermediate=KDLayer(6, name="kd_intermediate"))
    taps = {"student_layers": ("kd_intermediate",), "teacher_layers": ("intermediate",)}
    model = FitNet(student, setting.teacher, **taps)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.run_eagerly = True
    value = student.get_layer("kd_intermediate").value_kernel
    before = value.numpy().copy()
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    assert sorted(logs) == ["hint", "loss", "task_loss"]
    assert not np.array_equal(before, value.numpy())
