"""What holds for every loss on logits, and the table of them by name."""

import json

import keras
import numpy as np
import pytest
from logit_cases import (
    LABELS,
    ONE_HOT,
    STUDENT,
    TEACHER,
    WEIGHTS,
    value_and_gradient,
)
from registered_name import has_registered_name

from letkd_keras.losses import LOGIT_LOSSES, logit_loss

NAMES = tuple(LOGIT_LOSSES)
every_loss = pytest.mark.parametrize("name", NAMES)


@every_loss
def test_labels_may_be_integers_columns_tensors_or_one_hot(name):
    import tensorflow as tf

    loss = logit_loss(name)
    expected = float(loss((TEACHER, LABELS), STUDENT))
    for labels in (LABELS[:, None], LABELS.astype("uint8"), tf.constant(LABELS), ONE_HOT):
        assert float(loss((TEACHER, labels), STUDENT)) == expected
        assert float(loss([TEACHER, labels], STUDENT)) == expected


@every_loss
@pytest.mark.parametrize("rows", [slice(1), slice(None)])
def test_gradients_are_bounded_where_all_logits_of_the_student_are_equal(name, rows):
    loss, student = logit_loss(name), STUDENT.copy()
    _, usual = value_and_gradient(loss, (TEACHER, LABELS), student)
    # 0.3 is no float32 number, so that the mean of equal logits differs from them.
    student[rows] = 0.3
    value, gradient = value_and_gradient(loss, (TEACHER, LABELS), student)
    assert np.isfinite(value)
    assert np.abs(gradient).max() < 10 * np.abs(usual).max()


@every_loss
def test_the_value_is_the_mean_of_the_samples(name):
    by_sample = np.asarray(logit_loss(name, reduction=None)((TEACHER, LABELS), STUDENT))
    assert by_sample.shape == (6,)
    value = float(logit_loss(name)((TEACHER, LABELS), STUDENT))
    assert value == pytest.approx(by_sample.mean(), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dist"])
def test_sample_weights_weigh_the_samples(name):
    by_sample = np.asarray(logit_loss(name, reduction=None)((TEACHER, LABELS), STUDENT))
    value = logit_loss(name)((TEACHER, LABELS), STUDENT, sample_weight=WEIGHTS)
    assert float(value) == pytest.approx(np.mean(WEIGHTS * by_sample), rel=1e-5)


@every_loss
@pytest.mark.parametrize("size", [1e3, 1e4])
def test_a_certain_teacher_gives_finite_values_and_gradients(name, size):
    certain = np.where(ONE_HOT > 0, size, -size).astype("float32")
    wrong = np.roll(certain, 1, axis=1)
    undecided = np.zeros_like(certain)
    for teacher in (certain, wrong, undecided):
        for student in (STUDENT, certain, wrong, undecided, (size * STUDENT).astype("float32")):
            value, gradient = value_and_gradient(logit_loss(name), (teacher, LABELS), student)
            assert np.isfinite(value)
            assert np.isfinite(gradient).all()


@every_loss
def test_a_student_equal_to_the_teacher_has_the_least_loss(name):
    labels = TEACHER.argmax(-1)
    # WTTM's student is to be the transformed teacher.
    student = 0.2 * TEACHER if name == "wttm" else TEACHER
    value, gradient = value_and_gradient(logit_loss(name), (TEACHER, labels), student)
    assert value == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(gradient, 0, atol=1e-3)
    assert float(logit_loss(name)((TEACHER, labels), STUDENT)) > 0.1


@every_loss
def test_no_gradient_flows_to_the_teacher(name):
    import tensorflow as tf

    teacher = tf.constant(TEACHER)
    with tf.GradientTape() as tape:
        tape.watch(teacher)
        value = logit_loss(name)((teacher, LABELS), STUDENT)
    assert tape.gradient(value, teacher) is None


@every_loss
def test_half_precision_logits_are_computed_in_float32(name):
    teacher, student = TEACHER.astype("float16"), STUDENT.astype("float16")
    value = logit_loss(name)((teacher, LABELS), student)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    expected = logit_loss(name)((teacher.astype("float32"), LABELS), student.astype("float32"))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


@every_loss
def test_a_loss_of_half_precision_is_computed_in_float32(name):
    expected = float(logit_loss(name)((TEACHER, LABELS), STUDENT))
    value = logit_loss(name, dtype="float16")((TEACHER, LABELS), STUDENT)
    assert keras.backend.standardize_dtype(value.dtype) == "float16"
    assert float(value) == pytest.approx(expected, rel=1e-2)


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_loss_of_half_precision_does_not_round_labels(name, dtype):
    r = np.random.default_rng(0)
    teacher, student = r.normal(size=(2, 2, 2100)).astype("float32")
    labels, weights = np.array([999, 2099]), np.array([1.0, 0.5], "float32")
    for arguments in (((teacher, labels), student), ((teacher, labels), student, weights)):
        exact = logit_loss(name)(*arguments)
        value = logit_loss(name, dtype=dtype)(*arguments)
        assert float(value) == float(keras.ops.cast(exact, dtype))


@every_loss
def test_it_serialises_with_every_option(name):
    row = LOGIT_LOSSES[name]
    # Another value for each option than the default.
    options = {
        option: not value if isinstance(value, bool) else value + 0.25
        for option, value in row.settings().items()
    }
    loss = logit_loss(name, reduction="sum", name="mine", dtype="float64", **options)
    config = json.loads(json.dumps(keras.losses.serialize(loss)))
    again = keras.losses.deserialize(config)
    assert type(again) is row.loss
    assert has_registered_name(again)
    assert again.get_config() == loss.get_config()
    for option, value in options.items():
        assert again.get_config()[option] == value
    assert again.dtype == "float64"
    assert float(again((TEACHER, LABELS), STUDENT)) == float(loss((TEACHER, LABELS), STUDENT))


@every_loss
def test_it_compiles_with_an_unknown_size_of_the_batch(name):
    import tensorflow as tf

    loss = logit_loss(name)
    signature = [
        tf.TensorSpec((None, 10)),
        tf.TensorSpec((None,), "int64"),
        tf.TensorSpec((None, 10)),
        tf.TensorSpec((None,)),
    ]
    compiled = tf.function(lambda t, y, s, w: loss((t, y), s, w), input_signature=signature)
    expected = float(loss((TEACHER, LABELS), STUDENT, WEIGHTS))
    assert float(compiled(TEACHER, LABELS, STUDENT, WEIGHTS)) == pytest.approx(expected, rel=1e-5)


@every_loss
def test_wrong_arguments_are_refused(name):
    loss = logit_loss(name)
    for sample_weight in (None, WEIGHTS):
        for wrong in (TEACHER, TEACHER[:2], (TEACHER, LABELS, LABELS)):
            with pytest.raises(ValueError, match=r"`y_true` must be a pair"):
                loss(wrong, STUDENT, sample_weight)
    with pytest.raises(ValueError, match=r"must both be \[B, classes\]. Received.*\(6, 9\)"):
        loss((TEACHER[:, :9], LABELS), STUDENT)


@pytest.mark.parametrize("name", ["dkd", "dkd-ls", "rld"])
def test_labels_of_another_shape_are_refused(name):
    with pytest.raises(ValueError, match=r"`labels` must be \[B\], \[B, 1\] or \[B, 10\]"):
        logit_loss(name)((TEACHER, ONE_HOT[:, :7]), STUDENT)


def test_settings_of_the_papers():
    assert LOGIT_LOSSES["kd"].settings() == {"temperature": 4.0, "standardize_logits": False}
    assert LOGIT_LOSSES["kd-ls"].settings() == {"temperature": 2.0, "standardize_logits": True}
    weights = {name: (row.weight, row.task_weight) for name, row in LOGIT_LOSSES.items()}
    assert weights["kd"] == (0.9, 0.1)
    assert weights["kd-ls"] == (9, 0.1)
    assert weights["dkd"] == (1, 1)
    assert weights["dkd-ls"] == (9, 1)
    assert LOGIT_LOSSES["dkd"].warm_up_fraction == pytest.approx(1 / 12)
    assert LOGIT_LOSSES["kd"].warm_up_fraction == 0
    for name, row in LOGIT_LOSSES.items():
        assert row.name == name
        assert row.title
        assert row.paper


def test_options_take_precedence_over_the_rows():
    loss = logit_loss("dkd-ls", beta=2.0, temperature=3.0)
    assert (loss.alpha, loss.beta, loss.temperature) == (1.0, 2.0, 3.0)
    assert loss.standardize_logits
    assert loss.name == "dkd_ls"
    assert logit_loss("kd", name="hinton").name == "hinton"


def test_an_unknown_name_lists_the_losses():
    with pytest.raises(ValueError, match=r"`name` must be one of kd, kd-ls, dkd.*=nonsense\.$"):
        logit_loss("nonsense")
    with pytest.raises(ValueError, match=r"Received: name=wtm\. Did you mean wttm\?"):
        logit_loss("wtm")
    with pytest.raises(ValueError, match=r"`name` must be one of .*=\['kd', 'dkd'\]\."):
        logit_loss(["kd", "dkd"])


def test_an_unknown_option_lists_those_of_the_loss():
    with pytest.raises(
        ValueError,
        match=r"options of the loss dkd are alpha, beta, temperature.*"
        r"Received: temprature=2\. Did you mean temperature\?",
    ):
        logit_loss("dkd", temprature=2)
    with pytest.raises(ValueError, match=r"options of the loss wttm are power"):
        logit_loss("wttm", beta=1)
