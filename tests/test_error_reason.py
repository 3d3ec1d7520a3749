import pytest

from letkd_keras.error_reason import error_reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("\nno such file\nin line 3"), "no such file"),
        (MemoryError(), "MemoryError"),
        (RuntimeError(" \n"), "RuntimeError"),
    ],
)
def test_it_is_one_line(error, reason):
    assert error_reason(error) == reason
