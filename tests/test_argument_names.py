import pytest

from letkd_keras.argument_names import argument_renamed


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
