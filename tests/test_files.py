import contextlib
import errno
import gc
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from letkd_keras import files
from letkd_keras.files import (
    atomic_path,
    check_writable,
    checksum,
    is_temporary,
    open_atomic,
    remove_leftovers,
    save_figure,
    save_model,
    size_on_disk,
    write_csv,
    write_json,
    write_text,
)


def _open_files():
    gc.collect()  # which closes files that nothing refers to
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


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
    before = _open_files()
    remove_leftovers(tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []
    assert _open_files() == before


def test_leftovers_are_removed_when_the_path_is_written_again(tmp_path):
    leftover = _write_and_end(tmp_path / "artifact")
    with atomic_path(tmp_path / "artifact") as path:
        assert not leftover.exists()
        path.write_text("whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifact"]


def test_a_temporary_name_belongs_to_one_path():
    assert is_temporary(".a+b.csv.12345678.letkd", "a+b.csv")
    assert is_temporary(".a+b.csv.12345678.letkd")
    assert not is_temporary(".axcsv.12345678.letkd", "a.csv")
    assert not is_temporary(".a+b.csv.12345678.letkd", "a.csv")


def test_where_there_is_no_folder_there_are_no_leftovers(tmp_path):
    remove_leftovers(tmp_path / "new" / "artifact")
    assert not list(tmp_path.iterdir())


def test_what_is_being_written_and_what_others_wrote_stays(tmp_path):
    others = [".artifact.abc.letkd", ".artifact.template", ".artifact.12345678.txt", "other"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / "artifact").write_text("earlier")
    (tmp_path / ".artifact.87654321.letkd").write_text("a file")
    (tmp_path / ".artifact.00000000.letkd").symlink_to(tmp_path / "other")
    before = set(tmp_path.iterdir())
    with atomic_path(tmp_path / "artifact") as path:
        opened = _open_files()
        remove_leftovers(tmp_path / "artifact")
        assert _open_files() == opened
        path.write_text("whole")
        assert len(set(tmp_path.iterdir()) - before) == 1
    assert (tmp_path / "artifact").read_text() == "whole"
    assert {entry.name for entry in before} == {entry.name for entry in tmp_path.iterdir()}


@pytest.mark.parametrize("is_locked", [False, True])
def test_a_hidden_folder_that_another_process_removes_is_made_again(
    is_locked, tmp_path, monkeypatch
):
    lock, removed = files._lock, []

    def lock_of(folder, wait):
        if removed:
            return lock(folder, wait)
        removed.append(folder)
        descriptor = lock(folder, wait) if is_locked else None
        folder.rmdir()
        return descriptor if is_locked else lock(folder, wait)

    monkeypatch.setattr(files, "_lock", lock_of)
    opened = _open_files()
    write_text(tmp_path / "artifact", "whole")
    assert (tmp_path / "artifact").read_text() == "whole" and removed
    assert _open_files() == opened


def test_where_folders_cannot_be_locked_leftovers_are_kept(tmp_path, monkeypatch):
    (tmp_path / ".artifact.12345678.letkd").mkdir()
    monkeypatch.setattr(files, "fcntl", None)
    write_text(tmp_path / "artifact", "whole")
    names = [".artifact.12345678.letkd", "artifact"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


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


def test_a_folder_is_written_where_nothing_is_and_replaces_no_file(tmp_path):
    _write_folder(tmp_path / "artifact")
    assert (tmp_path / "artifact" / "new").read_text() == "whole"
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError):
        _write_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_nothing_stays_open(tmp_path, monkeypatch):
    synchronized, fsync = [], os.fsync

    def fsync_of(descriptor):
        synchronized.append((os.fstat(descriptor).st_size, (tmp_path / "artifact").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_of)
    before = _open_files()
    write_text(tmp_path / "artifact", "whole")
    assert synchronized == [(5, False)]
    assert _open_files() == before


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


@pytest.mark.parametrize("write", [atomic_path, open_atomic])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_has_the_name_of_the_file(write, number, tmp_path):
    with pytest.raises(OSError, match="artifact") as raised, write(tmp_path / "artifact"):
        raise OSError(number, os.strerror(number))  # as `write` of a file does
    assert raised.value.filename == str(tmp_path / "artifact")


def test_an_exceeded_quota_is_the_error_of_the_system(tmp_path):
    error = RuntimeError(f"part-0: {os.strerror(errno.EDQUOT)}")
    with pytest.raises(OSError) as raised, atomic_path(tmp_path / "artifact"):
        raise error
    assert raised.value.errno == errno.EDQUOT


def test_a_folder_that_exists_and_cannot_be_written_is_refused():
    with pytest.raises(ValueError, match=r"`out` must be a folder that can be written .*'/proc'"):
        check_writable("/proc", "out")


class _Broken:
    """A model and a figure that cannot be written to the end."""

    def save(self, path):
        path.write_text("half")
        raise RuntimeError

    def savefig(self, path, dpi):
        path.write_text(f"half at {dpi}")
        raise RuntimeError


@pytest.mark.parametrize(
    "write", [save_model, lambda figure, path: save_figure(figure, path, dpi=7)]
)
def test_models_and_figures_are_written_whole_or_not_at_all(write, tmp_path):
    (tmp_path / "file").write_text("whole")
    with pytest.raises(RuntimeError):
        write(_Broken(), tmp_path / "file")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_texts_of_json_and_csv(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": [\n    1\n  ]\n}\n'
    write_csv(tmp_path / "a.csv", ["x", "y"], [{"x": 1}, {"y": 2, "x": 3}])
    assert (tmp_path / "a.csv").read_text().splitlines() == ["x,y", "1,", "3,2"]


def test_size_and_checksum_of_a_folder_are_those_of_its_files(tmp_path):
    names = [f"{folder}/{name}" for folder in "ab" for name in "cdefgh"]
    for name in reversed(names):
        write_text(tmp_path / name, name)
    assert size_on_disk(tmp_path) == 3 * len(names)
    assert size_on_disk(tmp_path / "a" / "c") == 3
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    lines = "".join(f"{name} {of}\n" for name, of in zip(names, digests, strict=True))
    assert checksum(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


def test_the_checksum_of_a_folder_tells_where_its_files_are(tmp_path):
    for name in ("a/x/file", "b/y/file"):
        write_text(tmp_path / name, "same")
    assert checksum(tmp_path / "a" / "x") == checksum(tmp_path / "b" / "y")
    assert checksum(tmp_path / "a") != checksum(tmp_path / "b")
