from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from letkd_keras import KD, LetKD, fit_prototypes, models


def _compiled(**options):
    teacher, student = (models.build("resnet8", 3, (8, 8, 3)) for _ in range(2))
    distiller = KD(teacher, student)
    distiller.compile("sgd", "mse", **options)
    return distiller


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
    with pytest.raises(ValueError, match=rf"`{name}` must be {usable} .*Received: {name}={value}"):
        _compiled(**{name: value}).make_train_function()
    _compiled(**{name: usable}).make_train_function()


def test_one_device_takes_both():
    _compiled(steps_per_execution=4, jit_compile=True).make_train_function()


def test_batches_without_a_number_of_dimensions_are_refused():
    x, y = np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "int64")
    types = (tf.float32, tf.int64)
    batches = tf.data.Dataset.from_generator(lambda: [(x, y)], output_types=types)
    model = _compiled()
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"`x` must have a known .* `output_signature`"):
            use(batches, verbose=0)
        images_known = batches.map(lambda x, y: (tf.ensure_shape(x, (None, 8, 8, 3)), y))
        with pytest.raises(ValueError, match=r"`y` must have a known number of dimensions"):
            use(images_known, verbose=0)


def test_another_number_of_dimensions_than_before_is_refused_until_it_is_compiled_again():
    x, y = np.zeros((2, 8, 8, 3), "float32"), np.zeros(2, "int64")
    model = _compiled()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match=r"`y` .*, the same in all calls since `compile`: "):
        model.fit(x, y[:, None], verbose=0)
    model.compile("sgd", loss)
    model.fit(x, y[:, None], verbose=0)


def test_a_step_under_xla_is_the_step_of_the_graph():
    """Also a guard: some TensorFlow operations XLA cannot compile, and GPUs take XLA unasked."""
    r = np.random.default_rng(0)
    x, y = r.standard_normal((12, 8, 8, 3)).astype("float32"), np.arange(12) % 3

    def losses(jit_compile):
        keras.utils.set_random_seed(0)
        teacher, student = (models.build("resnet8", 3, (8, 8, 3)) for _ in range(2))
        numbers = {"templates": 5, "subclasses": 2, "components": 2, "iterations": 3}
        distiller = LetKD(teacher, student, fit_prototypes(teacher, (x, y), **numbers))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.01), loss, jit_compile=jit_compile)
        history = distiller.fit(x, y, batch_size=12, epochs=2, verbose=0).history
        assert {"kl_penultimate", "kl_intermediate"} <= history.keys()
        return history

    graph, xla = losses(False), losses(True)
    for name, values in graph.items():
        np.testing.assert_allclose(xla[name], values, rtol=1e-4, err_msg=name)


def test_the_loss_of_an_epoch_is_the_mean_over_the_images(setting):
    distiller = KD(setting.teacher, setting.student())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Nothing is trained, so that the same batch always has the same loss.
    distiller.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)

    def loss_of(images):
        x, y = setting.x[images], setting.y[images]
        history = distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
        return history["loss"][0]

    first, last = loss_of(slice(8)), loss_of(slice(8, 12))
    assert abs(first - last) > 0.005
    assert loss_of(slice(12)) == pytest.approx((8 * first + 4 * last) / 12, rel=1e-4)


def test_logged_losses_are_those_of_all_replicas(setting, monkeypatch):
    logs = []
    for replicas in (1, 2):
        distiller = KD(setting.teacher, setting.student())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
        strategy = SimpleNamespace(num_replicas_in_sync=replicas)
        with monkeypatch.context() as patch:
            patch.setattr(keras.Model, "distribute_strategy", strategy)
            logs.append(distiller.train_step((setting.x, setting.y)))
    assert sorted(logs[0]) == ["kd", "loss", "task_loss"]
    for name, value in logs[0].items():
        assert float(logs[1][name]) == pytest.approx(2 * float(value), rel=1e-5)


@pytest.mark.parametrize(("optimizer", "metrics"), [("adam", None), ("sgd", ["accuracy"])])
def test_a_step_is_traced_once(optimizer, metrics, monkeypatch):
    """Keras traces the step of a built model again after the trace that made variables."""
    calls = []
    step = KD.train_step
    monkeypatch.setattr(KD, "train_step", lambda self, data: calls.append(data) or step(self, data))
    model = _compiled()
    model.compile(optimizer, "mse", metrics=metrics)
    model.fit(np.zeros((6, 8, 8, 3), "float32"), np.eye(3)[[0, 1, 2] * 2], batch_size=2, verbose=0)
    assert len(calls) == 1


def test_on_several_replicas_the_variables_are_left_to_keras(two_cpu_replicas):
    model = _compiled()
    model._maybe_symbolic_build(iterator=object())  # whose element_spec has no shapes there
    assert not model.optimizer.built


def test_the_weights_of_a_generator_may_be_none():
    batch = np.zeros((2, 8, 8, 3), "float32"), np.eye(3)[:2], None
    model = _compiled()
    history = model.fit((batch for _ in range(2)), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(model.evaluate((batch for _ in range(2)), verbose=0))
