import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from letkd_keras.layers import GroupedConv2D


def _by_hand(x, kernel, groups):
    """1x1 convolution of each group's channels, one after another."""
    inputs, kernels = np.split(x, groups, axis=-1), np.split(kernel[0, 0], groups, axis=-1)
    return np.concatenate([a @ k for a, k in zip(inputs, kernels, strict=True)], axis=-1)


# TensorFlow has no channels-first convolution of one group on a CPU.
@pytest.mark.parametrize(
    ("groups", "data_format"),
    [(1, "channels_last"), (2, "channels_last"), (2, "channels_first"), (4, "channels_first")],
)
def test_each_group_is_a_convolution(groups, data_format):
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 8)).astype("float32")
    layer = GroupedConv2D(12, 1, groups=groups, use_bias=False, data_format=data_format)
    axes, back = ((0, 3, 1, 2), (0, 2, 3, 1)) if data_format == "channels_first" else (None, None)
    outputs = keras.ops.convert_to_numpy(layer(x.transpose(axes) if axes else x))
    outputs = outputs.transpose(back) if back else outputs
    expected = _by_hand(x, np.array(layer.kernel), groups)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_one_by_one_the_groups_give_the_same():
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 8)).astype("float32")
    layer = GroupedConv2D(12, 3, strides=2, padding="same", groups=4)
    expected = layer(x) - layer.bias
    actual = layer._convolve_one_by_one(x, keras.ops.convert_to_tensor(layer.kernel))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_dilated_kernel_skips_pixels():
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 4)).astype("float32")
    dilated = GroupedConv2D(6, 3, groups=2, dilation_rate=2)
    plain = GroupedConv2D(6, 3, groups=2)
    for layer in (dilated, plain):
        layer.build(x.shape)
    plain.set_weights(dilated.get_weights())
    np.testing.assert_allclose(dilated(x), plain(x[:, ::2, ::2]), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_kernel():
    import tensorflow as tf

    x = tf.constant(np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype("float32"))
    layer = GroupedConv2D(4, 3, groups=2, use_bias=False)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x))
    gradient = np.array(tape.gradient(loss, layer.kernel.value))
    # The output is linear in the kernel: on a 3x3 map each weight meets one value per image.
    expected = np.sum(x, axis=0)
    np.testing.assert_allclose(
        gradient[..., :2], np.repeat(expected[..., :2, None], 2, -1), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        gradient[..., 2:], np.repeat(expected[..., 2:, None], 2, -1), rtol=1e-4, atol=1e-5
    )


_WITHOUT_ONEDNN = """
import tensorflow as tf
from letkd_keras.layers import GroupedConv2D

layer, x = GroupedConv2D(4, 3, groups=2, use_bias=False), tf.ones((2, 3, 3, 4))
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(x))
print(float(tf.reduce_sum(tape.gradient(loss, layer.kernel.value))))
"""


def test_without_onednn_there_is_a_gradient_too():
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    command = [sys.executable, "-c", _WITHOUT_ONEDNN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    # Each of the 72 weights meets the 1 of one location of each of 2 images.
    assert done.stdout.strip() == "144.0", done.stderr
