"""Ranges of numbers: each is the `type` of an option and checks an argument of the Python API.

    parser.add_argument("--alpha", type=non_negative_number)
    self.alpha = non_negative_number.check(alpha, "alpha")

Only the standard library is imported, so that a wrong option is answered at once.
"""

import argparse
import math
import numbers
from dataclasses import dataclass
from typing import ClassVar

_LARGEST = 2**31 - 1


class _Range:
    """A range of numbers, as the `type` of an option and to check an argument."""

    _convert: ClassVar[type]
    _accepted: ClassVar[type]

    def __call__(self, text):
        """Convert the text of an option.

        Raises:
            argparse.ArgumentTypeError: If it is not a number of the range.
        """
        try:
            value = self._convert(text)
        except ValueError:
            raise refusal(self, text) from None
        if not self._contains(value):
            raise refusal(self._expected(value), text)
        return value

    def check(self, value, argument):
        """Check an argument.

        Args:
            value: What was passed. NumPy's numbers are accepted, booleans are not.
            argument: Name of the argument in the error.

        Returns:
            The value as an `int` or a `float`.

        Raises:
            ValueError: If the value is not such a number.
        """
        is_number = isinstance(value, self._accepted) and not isinstance(value, bool)
        if not is_number or not self._contains(value):
            expected = self._expected(value)
            raise ValueError(f"`{argument}` must be {expected}. Received: {argument}={value!r}")
        return self._convert(value)

    def _expected(self, value):
        """What is expected in place of a value."""
        return str(self)


@dataclass(frozen=True)
class Integer(_Range):
    """An integer within a range, as the `type` of an option or to check an argument.

    Attributes:
        smallest: Smallest value.
        largest: Largest value.
    """

    _convert: ClassVar[type] = int
    _accepted: ClassVar[type] = numbers.Integral
    smallest: int
    largest: int = _LARGEST

    def __str__(self):
        if self.largest == _LARGEST:
            return f"an integer of at least {self.smallest}"
        return f"an integer from {self.smallest} to {self.largest}"

    def _contains(self, value):
        return self.smallest <= value <= self.largest

    def _expected(self, value):
        # Few come near the usual largest integer. It is named only where it is exceeded.
        is_larger = isinstance(value, numbers.Integral) and value > self.largest == _LARGEST
        return f"{self} and at most {self.largest}" if is_larger else str(self)


@dataclass(frozen=True)
class Number(_Range):
    """A finite number within a range, as the `type` of an option or to check an argument.

    Attributes:
        smallest: Lower end of the range.
        largest: Upper end of the range, which is not part of it.
        includes_smallest: Whether the lower end is part of the range.
    """

    _convert: ClassVar[type] = float
    _accepted: ClassVar[type] = numbers.Real
    smallest: float = -math.inf
    largest: float = math.inf
    includes_smallest: bool = False

    def __str__(self):
        if self.smallest == -math.inf:
            return "a finite number"
        lower = "of at least" if self.includes_smallest else "greater than"
        upper = "" if self.largest == math.inf else f" and less than {self.largest:g}"
        return f"a finite number {lower} {self.smallest:g}{upper}"

    def _contains(self, value):
        try:
            value = float(value)  # NumPy compares a float32 in float32, where it warns
        except OverflowError:  # of an integer
            return False
        if not math.isfinite(value) or value >= self.largest:
            return False
        return value >= self.smallest if self.includes_smallest else value > self.smallest


positive_integer = Integer(1)
non_negative_integer = Integer(0)
class_count = Integer(2)
byte_count = Integer(1, 1024 * 2**40)  # 1024T
seed = Integer(0)
image_size = Integer(8, 4096)
finite_number = Number()
positive_number = Number(0)
non_negative_number = Number(0, includes_smallest=True)
positive_fraction = Number(0, 1)
fraction = Number(0, 1, includes_smallest=True)


def refusal(expected, received):
    """The error of an option whose text is not what is expected."""
    return argparse.ArgumentTypeError(f"must be {expected}. Received: {shown(received)}")


def shown(value):
    """A value in an error: ASCII, and not longer than a line."""
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
