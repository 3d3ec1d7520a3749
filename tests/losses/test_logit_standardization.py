import numpy as np
import pytest
from logit_cases import STUDENT, numeric_gradient

from letkd_keras.losses import standardize_logits


def _naive(x):
    return (x - x.mean(-1, keepdims=True)) / (1e-7 + x.std(-1, ddof=1, keepdims=True))


def test_by_hand():
    # Mean 2; the sum of squares, 8, is divided by 3 - 1.
    np.testing.assert_allclose(
        standardize_logits(np.array([[0.0, 2, 4]], "float32")), [[-1, 0, 1]], atol=1e-6
    )


def test_it_is_the_z_score_with_bessels_correction():
    z = np.asarray(standardize_logits(STUDENT))
    np.testing.assert_allclose(z, _naive(STUDENT.astype("float64")), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(z.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(-1, ddof=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("scale", "shift"), [(0.01, 0), (1000, 0), (2.5, 40)])
def test_shifts_and_positive_scales_of_a_sample_do_not_matter(scale, shift):
    np.testing.assert_allclose(
        standardize_logits(scale * STUDENT + shift), standardize_logits(STUDENT), atol=1e-4
    )


def test_gradient():
    import tensorflow as tf

    weights = np.random.default_rng(2).standard_normal(STUDENT.shape)
    x = tf.constant(STUDENT)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(weights.astype("float32") * standardize_logits(x))
    expected = numeric_gradient(lambda x: (weights * _naive(x)).sum(), STUDENT)
    np.testing.assert_allclose(tape.gradient(value, x), expected, rtol=1e-3, atol=1e-4)


def test_equal_logits_become_zeros_with_a_finite_gradient():
    import tensorflow as tf

    x = tf.fill((2, 5), 3.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = standardize_logits(x)
    np.testing.assert_array_equal(z, np.zeros((2, 5)))
    assert np.isfinite(tape.gradient(z, x)).all()


def test_two_classes_are_refused():
    with pytest.raises(ValueError, match=r"three classes or more .* Received: .*\(4, 2\)"):
        standardize_logits(np.ones((4, 2), "float32"))
