import contextlib
import errno
import subprocess
import sys
from pathlib import Path

import pytest

from letkd_keras.files import (
    atomic_path,
    check_writable,
    checksum,
    open_atomic,
    remove_leftovers,
    write_text,
)


def _write_and_end(path):
    """Write a path in a process that ends in the middle; returns what it leaves."""
    program = (
        "import os, sys, letkd_keras.files as files\n"
        "with files.atomic_path(sys.argv[1]) as path:\n"
        "    path.write_text('half')\n"
        "    os._exit(9)\n"
    )
    arguments = ["-m", "letkd_keras"]  # as a command, which imports only what it needs
    subprocess.run([sys.executable, "-c", program, path, *arguments])
    (leftover,) = path.parent.iterdir()
    return leftover


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    leftover = _write_and_end(tmp_path / "artifact")
    assert leftover.name.startswith(".artifact.")
    remove_leftovers(tmp_path / "other")
    assert leftover.exists()
    remove_leftovers(tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_removed_when_the_path_is_written_again(tmp_path):
    leftover = _write_and_end(tmp_path / "artifact")
    with atomic_path(tmp_path / "artifact") as path:
        assert not leftover.exists()
        path.write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifact"]


def test_what_is_being_written_and_what_others_wrote_stays(tmp_path):
    others = [".artifact.abc.letkd", ".artifact.template", ".artifact.12345678.txt", "other"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / "artifact").write_text("earlier")
    (tmp_path / ".artifact.87654321.letkd").write_text("a file")
    (tmp_path / ".artifact.00000000.letkd").symlink_to(tmp_path / "other")
    before = set(tmp_path.iterdir())
    with atomic_path(tmp_path / "artifact") as path:
        remove_leftovers(tmp_path / "artifact")
        path.write_text("whole")
        assert len(set(tmp_path.iterdir()) - before) == 1
    assert (tmp_path / "artifact").read_text() == "whole"
    assert {entry.name for entry in before} == {entry.name for entry in tmp_path.iterdir()}


def _write_nothing(path):
    with atomic_path(path):
        pass


def _write_file(path):
    with atomic_path(path) as temporary:
        temporary.write_text("whole")


def _write_folder(path):
    with atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("whole")


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (_write_nothing, FileNotFoundError),
        (_write_file, IsADirectoryError),
        (lambda path: write_text(path, "whole"), IsADirectoryError),
    ],
)
def test_only_a_folder_replaces_a_folder(write, error, tmp_path):
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "old").write_text("kept")
    with pytest.raises(error):
        write(tmp_path / "artifact")
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == [
        "artifact",
        "artifact/old",
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_is_replaced_or_stays(fails, tmp_path, monkeypatch):
    (tmp_path / "replaced").mkdir()
    (tmp_path / "replaced" / "old").write_text("kept")
    replace = Path.replace

    def failing(source, target):
        if source.name == target.name and (source / "new").exists():
            raise PermissionError
        return replace(source, target)

    if fails:
        monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(PermissionError) if fails else contextlib.nullcontext():
        _write_folder(tmp_path / "replaced")
    (folder,) = tmp_path.iterdir()
    assert [file.name for file in folder.iterdir()] == ["old" if fails else "new"]


def test_interrupted_writing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "artifact") as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [atomic_path, open_atomic])
@pytest.mark.parametrize(
    "error",
    [
        OSError("1198 requested and 992 written"),  # NumPy
        OSError("Can't write data (error message = 'No space left on device')"),  # HDF5
        RuntimeError("{{node SaveV2}} part-0.tempstate; No space left on device"),  # TensorFlow
    ],
)
def test_a_full_disk_is_the_error_of_the_system(write, error, tmp_path):
    with pytest.raises(OSError) as raised, write(tmp_path / "artifact"):
        raise error
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [atomic_path, open_atomic])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "bad disk"), ValueError("5 requested")])
def test_other_errors_of_writing_stay_as_they_are(write, error, tmp_path):
    with pytest.raises(type(error)) as raised, write(tmp_path / "artifact"):
        raise error
    assert raised.value is error


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    check_writable(tmp_path / "new" / "below")
    assert list(tmp_path.iterdir()) == []


def test_the_checksum_of_a_folder_tells_where_its_files_are(tmp_path):
    for name in ("a/x/file", "b/y/file"):
        write_text(tmp_path / name, "same")
    assert checksum(tmp_path / "a" / "x") == checksum(tmp_path / "b" / "y")
    assert checksum(tmp_path / "a") != checksum(tmp_path / "b")
