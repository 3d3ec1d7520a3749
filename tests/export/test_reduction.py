import keras
import numpy as np
import pytest
from random_students import with_kd_layers
from scipy.special import log_softmax, softmax

from letkd_keras import KDLayer, models
from letkd_keras.export import fold, reduction
from letkd_keras.export.reduction import fine_tune, reduce_templates
from letkd_keras.export.ridge import fit_ridge


@pytest.fixture(scope="module")
def wide():
    return with_kd_layers("resnet8", templates=(400, 48))


@pytest.fixture(scope="module")
def calibration():
    return np.random.default_rng(5).standard_normal((100, 16, 16, 3)).astype("float32")


def _difference(student, model, images):
    reference = np.asarray(student(images))
    return np.abs(np.asarray(model(images)) - reference).max() / np.abs(reference).max()


def test_a_part_of_the_templates_does_what_all_did(wide, calibration):
    before = wide.get_weights()
    reduced = reduce_templates(wide, calibration, {"kd_penultimate": 100})
    assert reduced.templates == {"kd_penultimate": 100, "kd_intermediate": 48}
    assert reduced.errors["kd_intermediate"] == 0
    assert 0 < reduced.errors["kd_penultimate"] < 0.1
    assert reduced.model.get_layer("kd_penultimate_templates").filters == 100
    # Each template less: its kernel of 64, its bias, its 5 values.
    assert reduced.model.count_params() == fold(wide).count_params() - 300 * (64 + 1 + 5)
    fresh = np.random.default_rng(6).standard_normal((20, 16, 16, 3)).astype("float32")
    assert _difference(wide, reduced.model, fresh) < 0.05
    for old, new in zip(before, wide.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_more_templates_leave_less(wide, calibration, monkeypatch):
    def fit(equations, held_out):
        # A fifth of the images is held out.
        assert 3.5 * held_out.power < equations.power < 4.5 * held_out.power
        return fit_ridge(equations, held_out)

    monkeypatch.setattr(reduction, "fit_ridge", fit)
    errors = [
        reduce_templates(wide, calibration, {"kd_intermediate": count}).errors["kd_intermediate"]
        for count in (2, 8, 32)
    ]
    assert errors[0] > errors[1] > errors[2] > 0


def test_of_templates_that_respond_equally_one_is_enough(calibration):
    student = with_kd_layers("resnet8")
    layer = student.get_layer("kd_intermediate")
    norm = layer.batch_normalization
    norm.beta.assign(np.linspace(0.2, 1.7, 16))
    # Its 16 templates are four, each of them four times.
    for weight in (layer.template_kernel, *norm.weights):
        weight.assign(np.tile(np.asarray(weight)[..., :4], 4))
    reduced = reduce_templates(student, calibration, {"kd_intermediate": 4})
    assert reduced.errors["kd_intermediate"] < 1e-6
    assert _difference(student, reduced.model, calibration[:20]) < 1e-5


def test_candidates_depend_on_the_seed(wide, calibration):
    first, again, other = (
        reduce_templates(wide, calibration, {"kd_intermediate": 2}, seed=seed).errors
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_later_layer_makes_up_for_the_earlier(wide, calibration):
    # The earlier layer is all but taken away; what reaches the end is close all the same.
    alone = reduce_templates(wide, calibration, {"kd_intermediate": 1})
    both = reduce_templates(wide, calibration, {"kd_intermediate": 1, "kd_penultimate": 399})
    fresh = np.random.default_rng(6).standard_normal((20, 16, 16, 3)).astype("float32")
    assert _difference(wide, both.model, fresh) < _difference(wide, alone.model, fresh) / 2


def test_keeping_all_templates_is_folding(wide, calibration):
    reduced = reduce_templates(wide, calibration, 400)
    images = calibration[:4]
    np.testing.assert_array_equal(reduced.model(images), fold(wide)(images))
    assert reduced.templates == {"kd_penultimate": 400, "kd_intermediate": 48}


def test_fine_tuning_moves_towards_the_student(wide, calibration):
    reduced = reduce_templates(wide, calibration, 2).model
    before = [np.array(weight) for weight in reduced.weights]
    losses = fine_tune(reduced, wide, calibration, epochs=6, learning_rate=3e-4, batch_size=25)
    assert losses[-1] < losses[0]
    assert any(np.any(a != np.array(b)) for a, b in zip(before, reduced.weights, strict=True))


def _student_and_copies(number):
    """A student with a batch normalization, and copies of it with larger weights."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, strides=4)(inputs))
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    student = keras.Model(inputs, outputs)
    copies = [keras.models.clone_model(student) for _ in range(number)]
    for copy in copies:
        copy.set_weights([1.1 * weight for weight in student.get_weights()])
    return student, copies


def test_fine_tuning_compares_probabilities_with_a_falling_learning_rate(images):
    student, (copy,) = _student_and_copies(1)
    targets, logits = (np.asarray(model(images)) for model in (student, copy))
    cross_entropy = -np.mean(np.sum(softmax(targets, -1) * log_softmax(logits, -1), axis=-1))
    losses = fine_tune(copy, student, images, epochs=3, learning_rate=1e-9, batch_size=4)
    assert losses == pytest.approx([cross_entropy] * 3, rel=1e-5)
    schedule = copy.optimizer.get_config()["learning_rate"]["config"]
    assert (schedule["initial_learning_rate"], schedule["decay_steps"]) == (1e-9, 3 * 2)
    assert int(copy.optimizer.iterations) == 3 * 2


def test_fine_tuning_depends_on_the_seed_and_keeps_statistics(images):
    student, copies = _student_and_copies(3)
    losses = []
    for seed, copy in zip((0, 0, 1), copies, strict=True):
        before = np.array(copy.layers[2].moving_variance)
        losses.append(fine_tune(copy, student, images, epochs=2, batch_size=2, seed=seed))
        np.testing.assert_array_equal(copy.layers[2].moving_variance, before)
    assert losses[0] == losses[1] != losses[2]


def test_wrong_inputs(wide, calibration):
    with pytest.raises(ValueError, match="`model` must have KD layers"):
        reduce_templates(
            models.build("resnet8", num_classes=5, input_shape=(16, 16, 3)), calibration, 4
        )
    with pytest.raises(ValueError, match="`templates` must name KD layers of the model"):
        reduce_templates(wide, calibration, {"conv1": 4})
    for count in (0, 1.5, True):
        with pytest.raises(ValueError, match="`templates` must be an integer of at least 1"):
            reduce_templates(wide, calibration, count)
    for name, value in (("epochs", 0), ("learning_rate", float("nan")), ("batch_size", 1.5)):
        with pytest.raises(ValueError, match=f"`{name}` must be a"):
            fine_tune(wide, wide, calibration, **{name: value})
    with pytest.raises(ValueError, match="at least ten"):
        reduce_templates(wide, calibration[:3], 4)
    pixels = np.zeros((20, 16, 16, 3), "uint8")
    with pytest.raises(ValueError, match="`images` must be normalized as for the student"):
        reduce_templates(wide, pixels, 4)
    with pytest.raises(ValueError, match="`images` must be normalized as for the student"):
        fine_tune(fold(wide), wide, pixels)


def test_layer_without_values_is_no_kd_layer_to_reduce(calibration):
    inputs = keras.Input((16, 16, 3))
    x = KDLayer(8, alpha=0.0, name="kd")(keras.layers.Conv2D(4, 3)(inputs))
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    with pytest.raises(ValueError, match="alpha above 0"):
        reduce_templates(keras.Model(inputs, outputs), calibration, 2)
