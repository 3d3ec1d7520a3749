"""The pieces that every network of the zoo is made of. They compute and start as in PyTorch."""

import keras

from letkd_keras.layers import TorchBatchNormalization
from letkd_keras.layers.grouped_convolution import GroupedConv2D
from letkd_keras.models.initialization import PYTORCH_DEFAULT


def channel_axis():
    """The axis of the channels of an image batch under Keras' `image_data_format`."""
    return -1 if keras.config.image_data_format() == "channels_last" else 1


def channels(x):
    """Number of channels of a symbolic image batch."""
    return x.shape[channel_axis()]


def conv(x, filters, kernel_size, stride=1, groups=1, *, initialization=PYTORCH_DEFAULT, name):
    """Convolution without bias, with PyTorch's padding of `kernel_size // 2`.

    `padding="same"` pads an even-sized map at the bottom and right only when the stride is 2;
    PyTorch pads both sides. There the padding is a layer of its own.
    """
    x, padding = _pytorch_padding(x, kernel_size, stride, name)
    arguments = {
        "strides": stride,
        "padding": padding,
        "use_bias": False,
        "kernel_initializer": initialization.convolution(),
        "name": name,
    }
    if groups > 1:
        return GroupedConv2D(filters, kernel_size, groups=groups, **arguments)(x)
    return keras.layers.Conv2D(filters, kernel_size, **arguments)(x)


def depthwise_conv(x, kernel_size, stride=1, *, initialization=PYTORCH_DEFAULT, name):
    """Convolution of each channel on its own, otherwise like `conv`."""
    x, padding = _pytorch_padding(x, kernel_size, stride, name)
    return keras.layers.DepthwiseConv2D(
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=False,
        depthwise_initializer=initialization.convolution(depthwise=True),
        name=name,
    )(x)


def _pytorch_padding(x, kernel_size, stride, name):
    if stride == 1:
        return x, "same"
    return pad(x, kernel_size // 2, name=f"{name}_pad"), "valid"


def pad(x, width, *, name):
    """Zeros on all four sides; nothing where the width is 0."""
    return keras.layers.ZeroPadding2D(width, name=name)(x) if width else x


def batch_norm(x, *, name):
    """Batch normalization over the channels with PyTorch's momentum, epsilon and variance."""
    return TorchBatchNormalization(axis=channel_axis(), name=name)(x)


def relu(x, max_value=None, *, name):
    """Rectifier, cut off at `max_value` if that is not `None` (6 in MobileNets)."""
    return keras.layers.ReLU(max_value=max_value, name=name)(x)


def concatenate(tensors, *, name):
    """The channels of all tensors, one after the other."""
    return keras.layers.Concatenate(axis=channel_axis(), name=name)(tensors)


def endpoint(x, name):
    """A layer that gives a feature map its name: KD layers follow it, distillers read it.

    The layer is an identity. So one tensor can have several names (in resnet8 the last stage has
    one block), and the names are the same in every network, whatever layer comes before. Of several
    names, that of the stage end comes before `penultimate`, so that a KD layer after `penultimate`
    does not change the stage end.
    """
    return keras.layers.Identity(name=name)(x)


def classifier(x, num_classes, *, initialization=PYTORCH_DEFAULT, name):
    """Global average pooling and a linear layer that gives logits."""
    x = keras.layers.GlobalAveragePooling2D(name="avgpool")(x)
    return keras.layers.Dense(
        num_classes,
        kernel_initializer=initialization.linear_weight(),
        bias_initializer=initialization.linear_bias(x.shape[-1]),
        dtype=keras.dtype_policies.get(keras.config.dtype_policy().variable_dtype),
        name=name,
    )(x)
