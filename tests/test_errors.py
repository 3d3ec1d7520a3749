import pytest

from letkd_keras.errors import argument_renamed, did_you_mean, error_reason


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError])
def test_an_error_has_the_name_of_the_caller(kind):
    message = "`share` must be less than 1. Received: share=2, with labelled_share=2"
    with pytest.raises(kind) as caught, argument_renamed("share", "part"):
        raise kind(message)
    expected = "`part` must be less than 1. Received: part=2, with labelled_share=2"
    assert str(caught.value) == expected
    assert str(caught.value.__cause__) == message


def test_other_errors_are_passed_on():
    error = UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid")
    with pytest.raises(UnicodeDecodeError) as caught, argument_renamed("share", "part"):
        raise error
    assert caught.value is error


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


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("--tempates", "--templates"),
        ("--output", "--out"),
        ("--batch", "--batch-size"),
        ("--metrics", None),
        ("--lr", None),
    ],
)
def test_a_similar_option_is_suggested(wrong, meant):
    options = ["-h", "--out", "--templates", "--trials", "--batch-size", "--classes"]
    assert did_you_mean(wrong, options) == (f". Did you mean {meant}?" if meant else "")
