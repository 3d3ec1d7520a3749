"""Keras' data format: as an argument, and feature maps in the other one."""

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
