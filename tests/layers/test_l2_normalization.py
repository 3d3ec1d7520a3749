import numpy as np
import pytest
import tensorflow as tf

from letkd_keras.layers.l2_normalization import l2_normalize


@pytest.mark.parametrize("axis", [0, -1])
def test_vectors_have_length_1(axis):
    x = np.random.default_rng(0).standard_normal((3, 5)).astype("float32") * 1e-9
    expected = x / np.linalg.norm(x.astype("float64"), axis=axis, keepdims=True)
    np.testing.assert_allclose(l2_normalize(x, axis), expected, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_zeros_stay_zeros_and_have_a_gradient_of_zero(jit_compile):
    @tf.function(jit_compile=jit_compile)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = l2_normalize(x, -1)
            loss = tf.reduce_sum(y * y * y + y)
        return y, tape.gradient(loss, x)

    y, gradient = run(tf.constant([[0.0, 0.0], [3.0, 4.0]]))
    np.testing.assert_allclose(y, [[0, 0], [0.6, 0.8]], rtol=1e-6)
    np.testing.assert_array_equal(gradient[0], [0, 0])
    # Of (x^3 + y^3) / |v|^3 at (3, 4): 3 x^2 / |v|^3 - 3 (x^3 + y^3) x / |v|^5.
    cubes = np.array([27 / 125 - 819 / 3125, 48 / 125 - 1092 / 3125])
    # Of (x + y) / |v|: 1 / |v| - (x + y) x / |v|^3.
    sums = np.array([1 / 5 - 21 / 125, 1 / 5 - 28 / 125])
    np.testing.assert_allclose(gradient[1], cubes + sums, 1e-4)


def test_what_is_too_short_for_float16_counts_as_zero():
    x = np.float16([[2.0**-15, 0.0], [2.0**-13, 0.0]])
    np.testing.assert_array_equal(l2_normalize(x, -1), [[0, 0], [1, 0]])
