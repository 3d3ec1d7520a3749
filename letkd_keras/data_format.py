"""Keras' data format: as an argument, of layers, and of shapes and feature maps."""

import keras
from keras import ops


def data_format_or_default(value):
    """Check Keras' data format; `None` is the Keras setting.

    Raises:
        ValueError: If the value is not a data format.
    """
    if value not in (None, "channels_last", "channels_first"):
        raise ValueError(
            "`data_format` must be 'channels_last' or 'channels_first'. "
            f"Received: data_format={value!r}"
        )
    return value or keras.config.image_data_format()


def to_channels_last(x, data_format):
    """A feature map of a data format as [B, H, W, C]."""
    return ops.transpose(x, (0, 2, 3, 1)) if data_format == "channels_first" else x


def from_channels_last(x, data_format):
    """A feature map [B, H, W, C] in a data format."""
    return ops.transpose(x, (0, 3, 1, 2)) if data_format == "channels_first" else x


def check_data_format(model):
    """Check that layers have Keras' data format, in which shapes of feature maps are read.

    Args:
        model: Functional `keras.Model` without models inside.

    Raises:
        ValueError: If a layer has the other one, naming it.
    """
    expected = keras.config.image_data_format()
    for layer in model.layers:
        found = getattr(layer, "data_format", expected)
        if found != expected:
            raise ValueError(
                f"The layers of {model.name!r} must have Keras' data format, {expected!r}: call "
                f"`keras.config.set_image_data_format({found!r})` before the models are made. "
                f"Received: {layer.name!r} with data_format={found!r}"
            )


def spatial_shape(shape):
    """Height and width of a shape [B, H, W, C], or [B, C, H, W] under that Keras setting."""
    if keras.config.image_data_format() == "channels_last":
        return tuple(shape[1:3])
    return tuple(shape[2:4])
