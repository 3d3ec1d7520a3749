import keras
import numpy as np
import pytest
from small_training import small_schedule

from letkd_keras.layers import KDLayer
from letkd_keras.recipes import cifar100, imagenet
from letkd_keras.recipes.trainings.schedule import Schedule

_numbers = keras.ops.convert_to_numpy


def test_milestones_scale_with_the_epochs():
    schedule = Schedule.of(cifar100.SETTINGS, 0.01, 24, 32)
    assert schedule == Schedule(24, 0.01, (15, 18, 21), 32, weight_decay=5e-4)
    assert Schedule.of(imagenet.SETTINGS, 0.1, 10, 256).milestones == (3, 6, 9)
    assert Schedule.from_config(schedule.config()) == schedule
    # A cosine has none.
    assert Schedule.of(cifar100.SETTINGS, 0.01, 24, 32, schedule="cosine").milestones == ()
    assert schedule.quantization_aware(2).milestones == ()


def test_learning_rates_by_hand():
    cosine = small_schedule(schedule="cosine").learning_rates(10)
    rates = [float(cosine(step)) for step in (0, 15, 30)]
    np.testing.assert_allclose(rates, [0.05, 0.025, 0], atol=1e-7)
    steps = Schedule(4, 0.1, (2,), warm_up_epochs=1).learning_rates(10)
    rates = [float(steps(step)) for step in (0, 4, 9, 10, 19, 20, 39)]
    np.testing.assert_allclose(rates, [0.01, 0.05, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    constant = Schedule(4, 0.1, (), warm_up_epochs=1).learning_rates(10)
    np.testing.assert_allclose([float(constant(4)), float(constant(30))], [0.05, 0.1], rtol=1e-6)


def test_a_warm_up_must_be_shorter_than_the_training():
    with pytest.raises(ValueError, match="`warm_up_epochs` must be less than the 3 epochs"):
        small_schedule(warm_up_epochs=3).make_optimizer(steps=1)


@pytest.fixture
def student():
    """A network with both KD layers and with normalization; every variable starts at 2."""
    layers = [
        keras.layers.Conv2D(3, 1),
        KDLayer(4, name="kd_intermediate"),
        keras.layers.BatchNormalization(),
        KDLayer(5, name="kd_penultimate"),
    ]
    student = keras.Sequential([keras.Input((2, 2, 3)), *layers])
    for variable in student.weights:
        variable.assign(np.full(variable.shape, 2.0))
    return student


def test_kd_layers_can_have_another_learning_rate(student):
    optimizer = Schedule(1, 0.5, (), kd_learning_rate_factor=0.1).make_optimizer(steps=1)
    plain = Schedule(1, 0.5, ()).make_optimizer(steps=1)
    changes = []
    for chosen in (plain, optimizer):
        copy = keras.models.clone_model(student)
        copy.set_weights(student.get_weights())
        chosen.apply(
            [keras.ops.ones(w.shape) for w in copy.trainable_weights], copy.trainable_weights
        )
        pairs = zip(copy.trainable_weights, student.trainable_weights, strict=True)
        changes.append({w.path: _numbers(before) - _numbers(w) for w, before in pairs})
    for name, change in changes[0].items():
        factor = 0.1 if "kd_" in name else 1.0
        np.testing.assert_allclose(changes[1][name], factor * change, rtol=1e-3)
    with pytest.raises(ValueError, match="`kd_learning_rate_factor` is for the optimizer sgd"):
        Schedule(1, 0.5, (), optimizer="adamw", kd_learning_rate_factor=0.1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_decays_without_a_gradient(student, name):
    variables = student.trainable_weights
    optimizer = small_schedule(optimizer=name, weight_decay=0.5).make_optimizer(1)
    optimizer.apply([keras.ops.zeros_like(v) for v in variables], variables)
    for variable in variables:
        if name == "sgd":
            # Everything, as in PyTorch: 0.5 * 2 is the gradient, the first Nesterov step 1.9 times.
            expected = 2 - 0.05 * 1.9
        else:
            # Kernels only, decoupled.
            expected = 2 - 0.05 * 0.5 * 2 if variable.name.endswith("kernel") else 2
        np.testing.assert_allclose(variable, expected, rtol=1e-6, err_msg=variable.path)


def test_the_gradient_of_all_variables_is_clipped_together():
    optimizer = small_schedule(clip_norm=5.0, weight_decay=0.0).make_optimizer(1)
    variables = [keras.Variable([0.0]), keras.Variable([0.0])]
    optimizer.build(variables)
    optimizer.apply([keras.ops.array([30.0]), keras.ops.array([40.0])], variables)
    # Of norm 50, so divided by 10; the first Nesterov step is 1.9 times the gradient.
    steps = [-float(variable[0]) for variable in variables]
    np.testing.assert_allclose(steps, [0.05 * 1.9 * 3, 0.05 * 1.9 * 4], rtol=1e-5)


def test_both_kinds_of_labels_are_smoothed():
    logits, labels = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, -1.0]], "float32"), np.array([0, 2])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = np.full((2, 3), 0.1)
    targets[[0, 1], labels] = 0.8
    expected = -np.mean(np.sum(targets * log_p, axis=1))
    schedule = small_schedule(label_smoothing=0.3)
    for one_hot, given in ((False, labels), (True, np.eye(3)[labels])):
        loss = schedule.loss(one_hot)
        assert float(loss(given, logits)) == pytest.approx(expected, rel=1e-6)
