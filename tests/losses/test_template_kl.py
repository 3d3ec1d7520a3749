import keras
import numpy as np
import pytest
from registered_name import has_registered_name
from relative_error import relative_error
from scipy.special import log_softmax, softmax, xlogy

from letkd_keras.losses import TemplateKLDivergence


def _targets_and_scores(*shape, seed=0, sharpness=3.0):
    r = np.random.default_rng(seed)
    return (
        softmax(sharpness * r.standard_normal(shape), axis=-1).astype("float32"),
        (3 * r.standard_normal(shape)).astype("float32"),
    )


def _naive(targets, scores):
    """KL by location and image, float64."""
    p = targets.astype("float64")
    divergence = xlogy(p, p) - p * log_softmax(scores.astype("float64"), axis=-1)
    return divergence.sum(-1).mean((1, 2))


def test_golden_divergence_and_gradient(golden_dir):
    import tensorflow as tf

    with np.load(golden_dir / "method_penultimate_target.npz") as golden:
        scores = tf.constant(golden["student_scores"])
        with tf.GradientTape() as tape:
            tape.watch(scores)
            kl = TemplateKLDivergence()(golden["targets"], scores)
        assert float(kl) == pytest.approx(float(golden["kl"]), rel=1e-6)
        assert relative_error(tape.gradient(kl, scores), golden["grad_scores"]) < 1e-6


def test_two_templates_by_hand():
    targets = np.array([0.25, 0.75], "float32").reshape(1, 1, 1, 2)
    scores = np.log(np.array([0.5, 0.5], "float32")).reshape(1, 1, 1, 2)
    expected = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert float(TemplateKLDivergence()(targets, scores)) == pytest.approx(expected, rel=1e-5)
    assert float(TemplateKLDivergence()(targets, scores + 17)) == pytest.approx(expected, rel=1e-4)


def test_it_is_the_naive_divergence_and_zero_where_the_student_agrees():
    targets, scores = _targets_and_scores(4, 3, 5, 11)
    loss = TemplateKLDivergence()
    assert float(loss(targets, scores)) == pytest.approx(_naive(targets, scores).mean(), rel=1e-5)
    by_image = TemplateKLDivergence(reduction=None)(targets, scores)
    np.testing.assert_allclose(by_image, _naive(targets, scores), rtol=1e-5)
    assert float(loss(targets, np.log(targets))) == pytest.approx(0, abs=1e-6)


def test_zeros_in_the_targets_count_nothing():
    targets = np.zeros((1, 2, 1, 3), "float32")
    targets[0, :, 0, 1] = 1
    scores = np.random.default_rng(0).standard_normal((1, 2, 1, 3)).astype("float32")
    expected = -log_softmax(scores, axis=-1)[0, :, 0, 1].mean()
    assert float(TemplateKLDivergence()(targets, scores)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1e3, 1e4, 1e30])
def test_extreme_scores_are_finite_with_their_gradient(size):
    import tensorflow as tf

    targets, scores = _targets_and_scores(2, 2, 2, 5, sharpness=100)
    targets[0, 0, 0] = [0, 0, 1, 0, 0]
    scores = tf.constant(np.sign(scores) * size)
    with tf.GradientTape() as tape:
        tape.watch(scores)
        kl = TemplateKLDivergence()(targets, scores)
    gradient = tape.gradient(kl, scores).numpy()
    assert np.isfinite(kl.numpy())
    assert kl >= 0
    expected = (softmax(scores.numpy().astype("float64"), axis=-1) - targets) / 8
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_with_the_targets_own_entropy_given_it_is_the_same():
    targets, scores = _targets_and_scores(4, 3, 5, 11)
    negentropy = xlogy(targets, targets).sum(-1)
    for form in ((targets, negentropy), [targets, negentropy]):
        value = TemplateKLDivergence()(form, scores)
        assert float(value) == pytest.approx(_naive(targets, scores).mean(), rel=1e-5)


@pytest.mark.parametrize("pair", [False, True])
def test_sample_weights_weigh_the_images(pair):
    targets, scores = _targets_and_scores(4, 3, 5, 11)
    given = (targets, xlogy(targets, targets).sum(-1)) if pair else targets
    weights = np.array([0.5, 0, 2, 1], "float32")
    value = TemplateKLDivergence()(given, scores, sample_weight=weights)
    expected = np.mean(weights * _naive(targets, scores))
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_half_precision_scores_are_computed_in_float32():
    targets, scores = _targets_and_scores(4, 3, 3, 4096)
    half = keras.ops.cast(scores, "float16")
    value = TemplateKLDivergence()(targets, half)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    expected = _naive(targets, np.asarray(half, "float64")).mean()
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_it_serialises():
    loss = TemplateKLDivergence(reduction="sum", name="kl")
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is TemplateKLDivergence
    assert has_registered_name(again)
    assert again.get_config() == loss.get_config()
    targets, scores = _targets_and_scores(4, 3, 5, 11)
    assert float(again(targets, scores)) == pytest.approx(_naive(targets, scores).sum(), rel=1e-5)
