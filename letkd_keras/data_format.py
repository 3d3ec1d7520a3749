"""Keras' data format as an argument."""

import keras


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
