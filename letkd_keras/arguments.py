"""Checks of the arguments of public functions and layers, each with one clear error."""

import math
import numbers

import keras


def positive_integer(argument, value):
    """Check an integer of at least 1.

    Args:
        argument: Name of the argument in the error.
        value: What was passed. NumPy's integers are accepted, booleans are not.

    Returns:
        The value as an `int`.

    Raises:
        ValueError: If the value is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(
            f"`{argument}` must be an integer of at least 1. Received: {argument}={value!r}"
        )
    return int(value)


def finite_number(argument, value, minimum=-math.inf, above=-math.inf, below=math.inf):
    """Check a finite number in a range.

    Args:
        argument: Name of the argument in the error.
        value: What was passed. NumPy's numbers are accepted, booleans are not.
        minimum: The smallest value allowed.
        above: A value that the number must exceed.
        below: A value that the number must not reach.

    Returns:
        The value as a `float`.

    Raises:
        ValueError: If the value is no number, not finite or out of range.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and minimum <= value and above < value < below):
        bounds = []
        if minimum > -math.inf:
            bounds.append(f"{minimum:g} or more")
        if above > -math.inf:
            bounds.append(f"more than {above:g}")
        if below < math.inf:
            bounds.append(f"less than {below:g}")
        expected = " and ".join([*bounds, "finite"]) if bounds else "a finite number"
        raise ValueError(f"`{argument}` must be {expected}. Received: {argument}={value!r}")
    return float(value)


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
