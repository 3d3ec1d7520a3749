import argparse

import pytest

from letkd_keras.commands.option_types import byte_count, byte_text, path


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("800M", 800 * 2**20), ("1.5g", 3 * 2**29), ("1024T", 2**50)]
)
def test_numbers_of_bytes_have_units(text, count):
    assert byte_count(text) == count
    assert byte_count(byte_text(count)) == count


def test_bytes_are_written_in_the_largest_unit():
    assert [byte_text(n) for n in (1000, 2**10, 3 * 2**29)] == ["1000", "1K", "1536M"]


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "1025T", "8X", "M"])
def test_other_numbers_of_bytes_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number of bytes"):
        byte_count(text)


def test_a_path_may_begin_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path("~/photos") == tmp_path / "photos"
    with pytest.raises(argparse.ArgumentTypeError, match="home folder of a user that exists"):
        path("~nobody-here/photos")
