import logging
import os
from pathlib import Path

import pytest
from in_a_process import in_a_process

from letkd_keras.commands import log_file
from letkd_keras.commands.log_file import logged_to, recorded, stderr_to_log


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch):
    """What converters wrote in earlier tests does not belong to these files."""
    monkeypatch.setattr(log_file, "_waiting", [])


def test_messages_of_all_packages_are_in_the_file(tmp_path):
    file = tmp_path / "new" / "log.txt"
    root, package = logging.getLogger(), logging.getLogger("letkd_keras")
    levels = root.level, package.level
    with logged_to(file):
        assert not file.exists()
        logging.getLogger("letkd_keras.callbacks").debug("an epoch")
        logging.getLogger("a_library").info("of a library")
    assert [line.split(" ", 2)[2] for line in file.read_text().splitlines()] == [
        "DEBUG an epoch",
        "INFO of a library",
    ]
    assert (root.level, package.level) == levels
    with logged_to(file):
        package.info("later")
    assert file.read_text().count("\n") == 3


def test_messages_before_there_is_a_folder_are_written_first(tmp_path):
    package = logging.getLogger("letkd_keras")
    with recorded() as earlier:
        package.info("resolved")
    package.warning("between")
    with pytest.raises(ValueError), logged_to(tmp_path / "run" / "log.txt", earlier):
        raise ValueError  # a refusal leaves nothing
    assert not (tmp_path / "run").exists()
    with logged_to(tmp_path / "run" / "log.txt", earlier):
        package.info("begun")
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO resolved", "INFO begun"]
    times = [line.split(" INFO ")[0] for line in lines]
    assert times[0] <= times[1]
    with logged_to(tmp_path / "other.txt", earlier):
        pass
    assert (tmp_path / "other.txt").read_text().endswith(" INFO resolved\n")


def test_what_cpp_code_writes_goes_to_the_file(tmp_path, capfd):
    with stderr_to_log():
        os.write(2, b"before there was a file\n")
    with logged_to(tmp_path / "log.txt"), stderr_to_log():
        os.write(2, b"W0000 a converter\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
    assert (tmp_path / "log.txt").read_text().splitlines()[-2:] == [
        "before there was a file",
        "W0000 a converter",
    ]


def test_of_what_was_written_before_there_was_a_file_the_last_lines_are_kept(monkeypatch):
    monkeypatch.setattr(log_file, "_MOST_WAITING", 2)
    for _ in range(2):
        with stderr_to_log():
            os.write(2, b"first\nsecond\nthird\n")
    assert log_file._waiting == ["second\n", "third\n"]


def test_errors_of_an_earlier_scope_are_not_shown_again(tmp_path, caplog):
    with logged_to(tmp_path / "log.txt"):
        with stderr_to_log():
            os.write(2, b"E0000 earlier\n")
        with pytest.raises(ValueError), stderr_to_log():
            os.write(2, b"E0000 later\n")
            raise ValueError
    assert caplog.messages == ["E0000 later"]


def test_errors_are_shown_where_the_scope_fails(caplog):
    with pytest.raises(ValueError, match="x"), stderr_to_log():
        os.write(2, b"I0000 nothing\nE0000 no kernel\nfile: error: no operation\n")
        raise ValueError("x")
    assert caplog.messages == ["E0000 no kernel", "file: error: no operation"]


def test_a_process_that_aborts_leaves_its_last_words(tmp_path):
    result = in_a_process("abort_in_cpp_code.py", tmp_path / "log.txt")
    assert result.returncode != 0
    assert (tmp_path / "log.txt").read_text() == "F0000 check failed\n"
    assert result.stderr.startswith("Fatal Python error: Aborted")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_loses_messages_and_nothing_else(capfd):
    with logged_to("/dev/full"):
        logging.getLogger("letkd_keras").info("lost")
    assert capfd.readouterr().err == ""
