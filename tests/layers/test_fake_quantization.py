import keras
import numpy as np
import pytest

from letkd_keras import KDLayer
from letkd_keras.layers import GroupedConv2D
from letkd_keras.layers.fake_quantization import (
    FAKE_QUANTIZED,
    FakeQuantization,
    FakeQuantizedKDLayer,
    fake_quantize_kernel,
)


def _values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def test_range_is_the_average_of_the_first_batches_and_then_a_moving_one():
    layer = FakeQuantization(momentum=0.6)
    batches = [[-1.0, 3.0], [2.0, 5.0], [-4.0, -0.5]]
    for batch in batches:
        layer(np.float32(batch), training=True)
    # Weights of the old range: 0, 1/2, then 0.6 as 2/3 is more. 0 is in every range.
    assert float(layer.minimum) == pytest.approx(0.6 * -0.5 + 0.4 * -4.0)
    assert float(layer.maximum) == pytest.approx(0.6 * 4.0 + 0.4 * 0.0)
    before = [np.asarray(weight) for weight in layer.weights]
    layer(np.float32([100.0]), training=False)
    np.testing.assert_array_equal([np.asarray(weight) for weight in layer.weights], before)


def test_values_are_rounded_and_clipped_by_hand():
    layer = FakeQuantization(bits=2)
    layer(np.float32([0.0, 3.0]), training=True)
    # Two bits: 0, 1, 2 and 3.
    np.testing.assert_allclose(layer(np.float32([-2.0, 0.4, 0.6, 2.7, 9.0])), [0, 0, 1, 3, 3])


def test_before_the_first_batch_the_input_is_returned():
    x = _values(3, 4)
    np.testing.assert_array_equal(FakeQuantization()(x, training=False), x)


@pytest.mark.filterwarnings("error:.*does not support mask")
def test_masks_pass_as_through_every_layer_of_keras_for_single_values():
    inputs = keras.Input((3, 2))
    x = keras.layers.Masking()(inputs)
    for layer in (FakeQuantization(), keras.layers.Dropout(0.5)):
        x = layer(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    values = np.float32([[[1, 2], [3, 4], [0, 0]]])
    np.testing.assert_allclose(model(values), [[2, 3]], rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="takes gradients by a tape")
def test_gradients_pass_inside_the_range_only():
    import tensorflow as tf

    layer = FakeQuantization()
    layer(np.float32([-1.0, 1.0]), training=True)
    x = tf.constant([-3.0, -0.33, 0.1, 0.77, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=False)
    np.testing.assert_array_equal(tape.gradient(y, x), [0, 1, 1, 1, 0])


def test_kernel_is_rounded_symmetrically_for_each_output_by_hand():
    kernel = np.float32([[7.0, -0.7], [3.4, 0.24], [-0.6, 0.0]])
    # Four bits: -7 to 7 times the scale of the column, which is 1 and 0.1.
    expected = [[7.0, -0.7], [3.0, 0.2], [-1.0, 0.0]]
    np.testing.assert_allclose(fake_quantize_kernel(kernel, bits=4), expected, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="takes gradients by a tape")
@pytest.mark.parametrize("bits", [3, 8, 16])
def test_every_value_of_a_kernel_has_its_gradient(bits):
    import tensorflow as tf

    # Of so many columns, rounding errors would clip the largest value of some.
    kernel, upstream = tf.constant(_values(20, 400)), _values(20, 400, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        rounded = fake_quantize_kernel(kernel, bits)
    np.testing.assert_allclose(tape.gradient(rounded, kernel, upstream), upstream, rtol=1e-6)


def test_a_factor_for_each_output_changes_nothing_else():
    kernel, factors = _values(3, 3, 4, 5), np.float32([0.1, -2.0, 7.0, 1.0, -0.3])
    rounded = np.asarray(fake_quantize_kernel(kernel))
    scaled = np.asarray(fake_quantize_kernel(kernel * factors))
    np.testing.assert_allclose(scaled, rounded * factors, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (keras.layers.Conv2D(5, 3, activation="relu"), (2, 6, 6, 4)),
        (GroupedConv2D(6, 1, groups=2, use_bias=False), (2, 6, 6, 4)),
        (keras.layers.DepthwiseConv2D(3, depth_multiplier=2), (2, 6, 6, 4)),
        (keras.layers.Dense(3), (2, 4)),
    ],
)
def test_layers_compute_with_their_rounded_kernel(layer, shape):
    x = _values(*shape)
    layer(x)
    config = {**layer.get_config(), "weight_bits": 3}
    quantized = FAKE_QUANTIZED[type(layer)].from_config(config)
    assert quantized.get_config()["weight_bits"] == 3
    quantized.build(shape)
    quantized.set_weights(layer.get_weights())
    kernel, *bias = layer.get_weights()
    columns = kernel.reshape(*kernel.shape[:2], -1) if "depthwise" in layer.name else kernel
    rounded = np.asarray(fake_quantize_kernel(columns, 3)).reshape(kernel.shape)
    layer.set_weights([rounded, *bias])
    np.testing.assert_allclose(quantized(x), layer(x), atol=1e-5)
    # The variable keeps its own values, and gradients reach it.
    np.testing.assert_array_equal(quantized.get_weights()[0], kernel)
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(quantized(x) ** 2)
    gradients = tape.gradient(loss, [weight.value for weight in quantized.trainable_weights])
    assert all(np.any(np.asarray(gradient)) for gradient in gradients)


@pytest.mark.parametrize("pool_output", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_kd_layer_of_many_bits_computes_as_the_plain_one(pool_output, alpha):
    x = _values(8, 3, 3, 6)
    plain = KDLayer(10, alpha=alpha)
    plain.build(x.shape)
    if alpha:  # responses far from 0, where the direction of small ones would be rounded
        plain.batch_normalization.beta.assign(np.full(10, 2.0))
    quantized = FakeQuantizedKDLayer(10, alpha=alpha, weight_bits=16, bits=16)
    quantized.build(x.shape)
    for weight, value in zip(quantized.weights, plain.get_weights(), strict=False):
        weight.assign(value)
    options = {"return_scores": True, "pool_output": pool_output}
    expected = plain(x, training=True, **options)
    received = quantized(x, training=True, **options)
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    # A location of zeros has no direction, and its gradient must not explode.
    zeros = np.zeros_like(x)
    assert np.all(np.isfinite(quantized(zeros, training=True)))
    coarse = FakeQuantizedKDLayer.from_config({**quantized.get_config(), "weight_bits": 3})
    coarse.build(x.shape)
    for weight, value in zip(coarse.weights, plain.get_weights(), strict=False):
        weight.assign(value)
    assert np.abs(np.asarray(coarse(x, **options)[1]) - np.asarray(expected[1])).max() > 0.05


def test_a_layer_trained_with_pooling_computes_the_same_without():
    x = _values(8, 4, 4, 6)
    layer = FakeQuantizedKDLayer(10, initial_value_scale=5.0)
    for _ in range(30):  # until the moving averages are those of the batch
        layer(x, training=True, pool_output=True)
    plain = KDLayer(10)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights()[: len(plain.weights)])
    expected = plain(x, pool_output=True)
    np.testing.assert_allclose(layer(x, pool_output=True), expected, atol=0.05)
    np.testing.assert_allclose(np.mean(layer(x), axis=(1, 2)), expected, atol=0.05)


@pytest.mark.parametrize("policy", ["float16", "bfloat16", "mixed_float16", "float64"])
@pytest.mark.parametrize("pool_output", [False, True])
def test_every_policy_trains_with_ranges_of_at_least_float32(policy, pool_output):
    x = _values(8, 3, 3, 6)
    expected = FakeQuantizedKDLayer(10, kernel_initializer="orthogonal")
    layer = FakeQuantizedKDLayer(10, kernel_initializer="orthogonal", dtype=policy)
    for each in (expected, layer):
        each.build(x.shape)
    layer.set_weights(expected.get_weights())
    inputs = keras.ops.cast(x, layer.compute_dtype)
    for _ in range(2):
        outputs = layer(inputs, training=True, pool_output=pool_output)
        full = expected(x, training=True, pool_output=pool_output)
    assert outputs.dtype == layer.compute_dtype
    np.testing.assert_allclose(keras.ops.cast(outputs, "float32"), full, atol=0.1)
    least = "float64" if policy == "float64" else "float32"
    assert {weight.dtype for weight in layer.weights} == {least}

    plain = FakeQuantization(dtype=policy)
    rounded = plain(inputs, training=True)
    assert rounded.dtype == plain.compute_dtype
    assert {weight.dtype for weight in plain.weights} == {least}
    np.testing.assert_allclose(keras.ops.cast(rounded, "float32"), x, atol=0.05)


def test_the_ranges_of_a_copy_have_the_options_of_the_layer():
    config = FakeQuantizedKDLayer(3, bits=5, momentum_of_ranges=0.0).get_config()
    first, second = (FakeQuantizedKDLayer.from_config(config) for _ in range(2))
    x = _values(4, 2, 2, 6)
    for layer in (first, second):
        layer.build(x.shape)
    second.set_weights(first.get_weights())
    first(3 * x - 1, training=True)
    outputs = first(x, training=True)
    # With momentum 0 the ranges are those of the last batch.
    np.testing.assert_array_equal(outputs, second(x, training=True))
    assert len(np.unique(outputs)) <= 2**5


@pytest.mark.parametrize("bits", [1, 17, 8.5, "8"])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match="`bits` must be an integer from 2 to 16"):
        FakeQuantization(bits=bits)


@pytest.mark.parametrize("momentum", [2.0, 1.0, -0.1, "0.9"])
def test_momentum_out_of_range(momentum):
    with pytest.raises(ValueError, match="`momentum` must be a finite number of at least 0"):
        FakeQuantization(momentum=momentum)
    with pytest.raises(ValueError, match="`momentum_of_ranges` must be a finite number of at"):
        FakeQuantizedKDLayer(3, momentum_of_ranges=momentum)
