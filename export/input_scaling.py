"""Students that take pixels from 0 to 255, with the normalization inside."""

import keras
import numpy as np

from letkd_keras.data.normalization import scale_and_shift
from letkd_keras.functional.graph import flatten, nodes, readers, run
from letkd_keras.functional.graph_copy import with_weights

# A smaller scale in a `Rescaling` layer or an operation can only be meant for pixels from 0 to 255,
# and so can a larger mean or standard deviation in a `Normalization` layer.
_LARGEST_SCALE = 1 / 64
_LARGEST_STATISTIC = 16
# Name of the layer in front of a student that normalizes pixels.
PIXEL_SCALING = "pixel_scaling"
# Layers that change the size of images, not the scale of their pixels.
_RESIZING = (keras.layers.Resizing, keras.layers.CenterCrop, keras.layers.RandomCrop)
# Operations that keep the scale of pixels, such as another order of the channels.
_KEEPING = ("Cast", "GetItem", "Stack", "Flip")


def takes_pixels(student):
    """Whether a student scales pixels from 0 to 255 itself, as networks of Keras do.

    Args:
        student: Functional `keras.Model`.

    Returns:
        `True` if its first layer is a `Rescaling` by a small factor, a `Normalization` with a large
        mean or standard deviation, or arithmetic with such constants, as in the functions
        `preprocess_input` of Keras. Random augmentations, resizing, crops and another order of
        channels before it do not count.
    """
    student = flatten(student)
    source = next(layer for layer in student.layers if isinstance(layer, keras.layers.InputLayer))
    return all(_scales_pixels(student, layer) for layer in _first_layers(student, source))


def _scales_pixels(student, layer):
    if not isinstance(layer, keras.layers.Layer):
        return _computes_with_pixels(student, layer)
    if isinstance(layer, keras.layers.Normalization) and not layer.invert:
        mean, variance = np.asarray(layer.mean), np.asarray(layer.variance)
        return max(np.max(np.abs(mean)), np.sqrt(np.max(variance))) > _LARGEST_STATISTIC
    return (
        isinstance(layer, keras.layers.Rescaling) and np.max(np.abs(layer.scale)) <= _LARGEST_SCALE
    )


def _computes_with_pixels(student, operation):
    """Whether an operation, such as a division by 255, has a constant for pixels."""
    arguments = next(node for node in nodes(student) if node.operation is operation).arguments
    constants = [
        np.abs(keras.ops.convert_to_numpy(value))
        for value in keras.tree.flatten((arguments.args, arguments.kwargs))
        if not isinstance(value, keras.KerasTensor | str | type(None))
    ]
    if len(constants) != 1:
        return False
    smallest, largest = np.min(constants[0]), np.max(constants[0])
    return {
        "TrueDivide": smallest >= 1 / _LARGEST_SCALE,
        "Multiply": largest <= _LARGEST_SCALE,
        "Add": largest > _LARGEST_STATISTIC,
        "Subtract": largest > _LARGEST_STATISTIC,
    }.get(type(operation).__name__, False)


def _first_layers(student, source):
    """The layers that read an output of `source`, perhaps through layers that keep its scale."""
    for layer in readers(student, source):
        keeps = type(layer).__name__ in _KEEPING
        if keeps or is_augmentation(layer) or isinstance(layer, _RESIZING):
            yield from _first_layers(student, layer)
        else:
            yield layer


def is_augmentation(layer):
    """Whether a layer is a random augmentation of Keras, which does nothing at inference."""
    is_from_keras = type(layer).__module__.split(".")[0] == "keras"
    is_random = type(layer).__name__.startswith("Rand")
    # At inference a random crop is a crop of the center.
    return is_from_keras and is_random and not isinstance(layer, keras.layers.RandomCrop)


def with_pixel_input(student, mean, std):
    """Put the normalization of pixels in front of a student.

    It is a depthwise 1x1 convolution with bias. In int8 this is a single operation with a scale for
    each channel, so that the pixels are rounded once only.

    Args:
        student: Functional `keras.Model` that takes normalized images, channels last.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.

    Returns:
        A functional model that takes pixels from 0 to 255 and shares the student's layers. If the
        student takes pixels as they are (mean 0, standard deviation 1/255), it is the student.
    """
    scale, shift = scale_and_shift(mean, std)
    if np.allclose(scale, 1, rtol=1e-6) and not np.any(shift):
        return student
    channels = student.input_shape[-1]
    scale, shift = (np.broadcast_to(values, (channels,)) for values in (scale, shift))
    image = keras.Input(student.input_shape[1:], name="image")
    layer = keras.layers.DepthwiseConv2D(
        1, data_format="channels_last", trainable=False, dtype="float32", name=PIXEL_SCALING
    )
    images = with_weights(layer, [scale.reshape(1, 1, channels, 1), shift], image)
    outputs = run(student, images, lambda operation, *args, **kwargs: operation(*args, **kwargs))
    return keras.Model(image, keras.tree.flatten(outputs)[0], name=student.name)
