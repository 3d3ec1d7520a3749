import keras
import numpy as np
import pytest

from letkd_keras.layers.image_blocks import map_images, reduce_images, sum_images


def _values(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def _gradients(function, *arguments):
    """A scalar function's value and gradients."""
    import tensorflow as tf

    arguments = [tf.constant(argument) for argument in arguments]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = function(*arguments)
    return [x.numpy() for x in (value, *tape.gradient(value, arguments))]


def _check_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


# One image a block; blocks that leave a rest; blocks that do not; one block.
_SIZES = (1, 3, 4, 8, 9)


@pytest.mark.parametrize("block_size", _SIZES)
def test_mapped_images_have_the_values_and_gradients_of_one_call(block_size):
    def function(x, y, kernel, bias):
        return keras.ops.tanh(x @ kernel + bias) * y[:, None]

    cotangent = _values(8, 5, seed=0)
    arguments = _values(8, 3, seed=1), _values(8, seed=2), _values(3, 5, seed=3), _values(5, seed=4)
    expected = _gradients(lambda *a: keras.ops.sum(function(*a) * cotangent), *arguments)
    actual = _gradients(
        lambda *a: keras.ops.sum(map_images(function, a[:2], a[2:], block_size) * cotangent),
        *arguments,
    )
    _check_same(actual, expected)


@pytest.mark.parametrize("block_size", _SIZES)
def test_summed_images_have_the_value_and_gradients_of_one_call(block_size):
    labels = np.arange(8) % 5

    def function(x, labels, kernel):
        logits = keras.ops.log_softmax(x @ kernel)
        return keras.ops.sum(keras.ops.take_along_axis(logits, labels[:, None], axis=1))

    arguments = _values(8, 3, seed=1), _values(3, 5, seed=3)
    expected = _gradients(lambda x, kernel: 3 * function(x, labels, kernel) ** 2, *arguments)
    actual = _gradients(
        lambda x, k: 3 * sum_images(function, [x], [k], block_size, [labels]) ** 2, *arguments
    )
    _check_same(actual, expected)


@pytest.mark.parametrize("block_size", _SIZES)
def test_reduced_images_are_the_sums_of_one_call(block_size):
    def function(x):
        return [keras.ops.sum(x, axis=0), keras.ops.sum(x**2)]

    x = _values(8, 3, seed=0)
    _check_same(reduce_images(function, [x], block_size), function(x))


@pytest.mark.parametrize("images", [1, 4, 9])
def test_under_xla_the_last_batch_may_be_smaller_than_a_block(images):
    import tensorflow as tf

    def function(x, kernel):
        return keras.ops.sum(keras.ops.tanh(x @ kernel) ** 2)

    def in_blocks(x, kernel):
        mapped = map_images(lambda x, kernel: keras.ops.tanh(x @ kernel), [x], [kernel], 4)
        (reduced,) = reduce_images(lambda x: [keras.ops.sum(x)], [x], 4)
        return sum_images(function, [x], [kernel], 4) + keras.ops.sum(mapped**2) + 0 * reduced

    # As in `fit`, the number of images is not known when the step is traced.
    @tf.function(
        jit_compile=True, input_signature=[tf.TensorSpec((None, 3)), tf.TensorSpec((3, 5))]
    )
    def compiled(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            value = in_blocks(x, kernel)
        return [value, *tape.gradient(value, [x, kernel])]

    x, kernel = (_values(*shape, seed=1).astype("float32") for shape in ((images, 3), (3, 5)))
    expected = _gradients(lambda *a: 2 * function(*a), x, kernel)
    for actual, value in zip(compiled(x, kernel), expected, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-6)
