import math

import numpy as np
import pytest

from letkd_keras.arguments import data_format_or_default, finite_number, positive_integer


@pytest.mark.parametrize("value", [1, 7, np.int64(3)])
def test_positive_integers(value):
    checked = positive_integer("n", value)
    assert checked == value and type(checked) is int


@pytest.mark.parametrize("value", [0, -1, 1.0, True, np.True_, "1", None, math.nan])
def test_everything_else_is_no_positive_integer(value):
    with pytest.raises(ValueError, match=r"`n` must be an integer of at least 1\. Received: n="):
        positive_integer("n", value)


def test_finite_numbers():
    assert finite_number("x", -2) == -2.0
    checked = finite_number("x", np.float32(0.5), minimum=0.5, below=1)
    assert checked == 0.5 and type(checked) is float


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (math.nan, {}, "`x` must be a finite number. Received: x=nan"),
        (math.inf, {}, "`x` must be a finite number. Received: x=inf"),
        (True, {}, "`x` must be a finite number. Received: x=True"),
        (None, {}, "`x` must be a finite number. Received: x=None"),
        (-0.1, {"minimum": 0}, "`x` must be 0 or more and finite. Received: x=-0.1"),
        (0, {"above": 0}, "`x` must be more than 0 and finite. Received: x=0"),
        (1, {"minimum": 0, "below": 1}, "`x` must be 0 or more and less than 1 and finite."),
    ],
)
def test_numbers_out_of_range(value, bounds, message):
    with pytest.raises(ValueError) as error:
        finite_number("x", value, **bounds)
    assert str(error.value).startswith(message)


def test_data_formats():
    assert data_format_or_default(None) == "channels_last"
    assert data_format_or_default("channels_first") == "channels_first"
    with pytest.raises(ValueError, match=r"`data_format` must be .*'NHWC'"):
        data_format_or_default("NHWC")
