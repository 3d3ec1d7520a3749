"""Names of options, and their types: what their texts may be.

Numbers have the types of `letkd_keras.ranges`.

Only the standard library is imported, so that a wrong option is answered at once.
"""

import argparse
from pathlib import Path

from letkd_keras import ranges
from letkd_keras.errors import did_you_mean
from letkd_keras.ranges import refusal, shown

# Names of `--pixels`; `letkd_keras.data.normalization` has their numbers.
PIXELS = ("0..255", "0..1", "-1..1", "imagenet")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def option_of(argument):
    """The option that sets an argument: `--check-images` of `check_images`."""
    return f"--{argument.replace('_', '-')}"


def byte_count(text):
    """Convert a number of bytes, with an optional unit: `800M`, `2G`, `1.5G`.

    Returns:
        An integer.

    Raises:
        argparse.ArgumentTypeError: If it is not a number from 1 byte to 1024T.
    """
    expected = "a number of bytes such as 800M or 2G, at most 1024T"
    unit = _UNITS.get(text[-1:].upper())
    try:
        value = float(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        raise refusal(expected, text) from None
    if not 1 <= value <= ranges.byte_count.largest:  # also refuses NaN
        raise refusal(expected, text)
    return int(value)


def byte_text(count):
    """Write a number of bytes as `byte_count` reads it, in the largest unit without a remainder.

    Returns:
        A text.
    """
    unit = next((u for u in reversed(_UNITS) if count % _UNITS[u] == 0), "")
    return f"{count // _UNITS.get(unit, 1)}{unit}"


def text(value):
    """Accept a text that is not empty and can be written to a file.

    Raises:
        argparse.ArgumentTypeError: If it is not.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise refusal("a text that can be encoded as UTF-8", value) from None
    if not value.strip() or "\0" in value:
        raise refusal("a text that is not empty", value)
    return value


def list_item(value):
    """Accept one item of a list whose items are separated by spaces.

    Raises:
        argparse.ArgumentTypeError: If it is empty or has a comma.
    """
    if "," in value:
        raise refusal("a list separated by spaces, not by commas", value)
    return text(value)


def path(value):
    """Convert a path. `~` and `~user` become home folders.

    Raises:
        argparse.ArgumentTypeError: If it is empty, or there is no such user.
    """
    try:
        return Path(text(value)).expanduser()
    except RuntimeError:
        raise refusal("a path in the home folder of a user that exists", value) from None


def output_file(suffix):
    """Make the type of the path of a file to write.

    Args:
        suffix: How its name must end, such as `".npz"`.

    Returns:
        A function from the text of an option to a `Path`. It refuses another suffix and a folder.
    """

    def convert(value):
        file = path(value)
        if file.suffix.lower() != suffix:
            raise refusal(f"a file whose name ends in {suffix}", value)
        if file.is_dir():
            raise refusal("a file, not a folder", value)
        return file

    return convert


def choice(*names):
    """Make the type of an option that has one of a few values.

    Args:
        *names: The values.

    Returns:
        A function that refuses other values and suggests a similar one.
    """

    def convert(value):
        if value not in names:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(names)}. Received: {shown(value)}"
                f"{did_you_mean(value, names)}"
            )
        return value

    return convert
