"""Ranges as types of options and as checks of arguments."""

import argparse
import math

import numpy as np
import pytest

from letkd_keras import ranges

_RANGES = [
    (ranges.positive_integer, (1, 2**31 - 1), (0, -1, 2**31)),
    (ranges.Integer(13, 18), (13, 18), (12, 19)),
    (ranges.finite_number, (-2, 0.5), (math.nan, math.inf, 10**400)),
    (ranges.non_negative_number, (0, 1e9), (-0.1, math.nan, math.inf)),
    (ranges.positive_number, (1, 1e-9), (0, math.inf, 10**400)),
    (ranges.positive_number, (np.float32(0.5),), (np.float32("nan"), np.float16("inf"))),
    (ranges.fraction, (0, 0.5), (1, -0.1, math.nan)),
    (ranges.positive_fraction, (1e-9, 0.5), (0, 1)),
]


@pytest.mark.parametrize(("range_", "inside", "outside"), _RANGES)
def test_options_and_arguments_have_the_same_range(range_, inside, outside):
    for value in inside:
        assert range_(str(value)) == range_.check(value, "x") == value
    for value in outside:
        with pytest.raises(argparse.ArgumentTypeError, match=r"^must be .* Received: "):
            range_(str(value))
        with pytest.raises(ValueError, match=r"^`x` must be .* Received: x="):
            range_.check(value, "x")


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_a_checked_integer_is_an_int(value):
    assert type(ranges.positive_integer.check(value, "n")) is int


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [2, np.float32(0.5), np.float16(0.5), np.int64(3)])
def test_a_checked_number_is_a_float(value):
    checked = ranges.positive_number.check(value, "x")
    assert checked == value and type(checked) is float


@pytest.mark.parametrize("value", [1.0, True, np.True_, "1", None, math.nan])
def test_other_types_are_no_integers(value):
    with pytest.raises(ValueError, match=r"^`n` must be an integer of at least 1\. Received: n="):
        ranges.positive_integer.check(value, "n")


@pytest.mark.parametrize("value", [True, np.True_, "0.5", None, 1j, [0.5]])
def test_other_types_are_no_numbers(value):
    with pytest.raises(ValueError, match=r"^`x` must be a finite number\. Received: x="):
        ranges.finite_number.check(value, "x")


@pytest.mark.parametrize(
    ("range_", "message"),
    [
        (ranges.class_count, "an integer of at least 2"),
        (ranges.image_size, "an integer from 8 to 4096"),
        (ranges.finite_number, "a finite number"),
        (ranges.positive_number, "a finite number greater than 0"),
        (ranges.fraction, "a finite number of at least 0 and less than 1"),
    ],
)
def test_an_error_says_what_is_expected(range_, message):
    with pytest.raises(ValueError) as error:
        range_.check(-math.inf, "x")
    assert str(error.value).startswith(f"`x` must be {message}. Received: x=")


@pytest.mark.parametrize(
    ("range_", "value", "message"),
    [
        (ranges.seed, 2**31, "an integer of at least 0 and at most 2147483647"),
        (ranges.seed, np.int64(2**40), "an integer of at least 0 and at most 2147483647"),
        (ranges.seed, -(2**31), "an integer of at least 0"),
        (ranges.image_size, 2**31, "an integer from 8 to 4096"),
    ],
)
def test_the_usual_largest_integer_is_named_where_it_is_exceeded(range_, value, message):
    with pytest.raises(ValueError, match=rf"^`x` must be {message}\. Received: x="):
        range_.check(value, "x")
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^must be {message}\. Received: "):
        range_(str(value))
