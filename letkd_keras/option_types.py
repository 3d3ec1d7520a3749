"""Types of options: what their texts may be, and ranges of numbers for options and arguments alike.

Only the standard library is imported, so that a wrong option is answered at once.
"""

import argparse
import difflib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

# Names of `--pixels`; `letkd_keras.data.normalization` has their numbers.
PIXELS = ("0..255", "0..1", "-1..1", "imagenet")
_LARGEST = 2**31 - 1
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class _Range:
    """A range of numbers, as the `type` of an option."""

    _convert: ClassVar[type]

    def __call__(self, text):
        """Convert the text of an option.

        Raises:
            argparse.ArgumentTypeError: If it is not a number of the range.
        """
        try:
            value = self._convert(text)
        except ValueError:
            raise _refusal(self, text) from None
        if not self._contains(value):
            raise _refusal(self, text)
        return value


@dataclass(frozen=True)
class Integer(_Range):
    """An integer within a range, as the `type` of an option or to check an argument.

    Attributes:
        smallest: Smallest value.
        largest: Largest value.
    """

    _convert: ClassVar[type] = int
    smallest: int
    largest: int = _LARGEST

    def __str__(self):
        if self.largest == _LARGEST:
            return f"an integer of at least {self.smallest}"
        return f"an integer from {self.smallest} to {self.largest}"

    def check(self, value, argument):
        """Refuse a value that is not such an integer.

        Raises:
            ValueError: With the name of the argument, what is expected and the value.
        """
        # numpy's integers are integers, True is not.
        integer = hasattr(value, "__index__") and not isinstance(value, bool)
        if not integer or not self._contains(value):
            raise ValueError(f"`{argument}` must be {self}. Received: {argument}={value!r}")

    def _contains(self, value):
        return self.smallest <= value <= min(self.largest, _LARGEST)


@dataclass(frozen=True)
class Number(_Range):
    """A finite number within a range, as the `type` of an option or to check an argument.

    Attributes:
        smallest: Lower end of the range.
        largest: Upper end of the range, which is not part of it.
        includes_smallest: Whether the lower end is part of the range.
    """

    _convert: ClassVar[type] = float
    smallest: float
    largest: float = math.inf
    includes_smallest: bool = False

    def __str__(self):
        lower = "of at least" if self.includes_smallest else "greater than"
        upper = "" if self.largest == math.inf else f" and less than {self.largest:g}"
        return f"a finite number {lower} {self.smallest:g}{upper}"

    def check(self, value, argument):
        """Refuse a value that is not such a number.

        Raises:
            ValueError: With the name of the argument, what is expected and the value.
        """
        try:
            contained = not isinstance(value, bool | str) and self._contains(float(value))
        except (TypeError, ValueError, OverflowError):
            contained = False
        if not contained:
            raise ValueError(f"`{argument}` must be {self}. Received: {argument}={value!r}")

    def _contains(self, value):
        if not math.isfinite(value) or value >= self.largest:
            return False
        return value >= self.smallest if self.includes_smallest else value > self.smallest


positive_integer = Integer(1)
non_negative_integer = Integer(0)
class_count = Integer(2)
seed = Integer(0)
image_size = Integer(8, 4096)
positive_number = Number(0)
non_negative_number = Number(0, includes_smallest=True)
fraction = Number(0, 1)
share = Number(0, 1, includes_smallest=True)


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
        raise _refusal(expected, text) from None
    if not 1 <= value <= 1024 * _UNITS["T"]:  # also refuses NaN
        raise _refusal(expected, text)
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
        raise _refusal("a text that can be encoded as UTF-8", value) from None
    if not value.strip() or "\0" in value:
        raise _refusal("a text that is not empty", value)
    return value


def list_item(value):
    """Accept one item of a list whose items are separated by spaces.

    Raises:
        argparse.ArgumentTypeError: If it is empty or has a comma.
    """
    if "," in value:
        raise _refusal("a list separated by spaces, not by commas", value)
    return text(value)


def path(value):
    """Convert a path.

    Raises:
        argparse.ArgumentTypeError: If it is empty.
    """
    return Path(text(value)).expanduser()


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
            raise _refusal(f"a file whose name ends in {suffix}", value)
        if file.is_dir():
            raise _refusal("a file, not a folder", value)
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
                f"must be one of {', '.join(names)}. Received: {_shown(value)}"
                f"{did_you_mean(value, names)}"
            )
        return value

    return convert


def did_you_mean(value, names):
    """Suggest the name that a wrong one resembles.

    Returns:
        A sentence with a space before it, or an empty text.
    """
    close = difflib.get_close_matches(str(value), [str(name) for name in names], n=1)
    return f". Did you mean {close[0]}?" if close else ""


def _refusal(expected, received):
    return argparse.ArgumentTypeError(f"must be {expected}. Received: {_shown(received)}")


def _shown(value):
    shown = ascii(value)
    return shown if len(shown) <= 100 else f"{shown[:97]}..."
