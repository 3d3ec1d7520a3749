import errno
import os
import resource

import numpy as np
import pytest

from letkd_keras import memory_mapped


def test_rows_taken_are_those_of_indexing(tmp_path):
    path = tmp_path / "array.npy"
    array = memory_mapped.create(path, (1000, 3), "float32")
    array[:] = np.arange(3000).reshape(1000, 3)
    rows = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(memory_mapped.take(array, rows), 3 * rows[:, None] + [0, 1, 2])
    held = np.asarray(array)
    np.testing.assert_array_equal(memory_mapped.take(held, rows[:5]), held[rows[:5]])


def test_what_is_released_is_still_in_the_file(tmp_path):
    array = memory_mapped.create(tmp_path / "array.npy", (5000, 2), "float16")
    array[:] = 3
    memory_mapped.release(array[10:20])
    assert (array == 3).all()
    del array
    assert (np.load(tmp_path / "array.npy") == 3).all()


def test_the_shape_may_be_of_integers_of_numpy(tmp_path):
    memory_mapped.create(tmp_path / "array.npy", (np.int64(5), 2), "uint8")[:] = 3
    np.testing.assert_array_equal(np.load(tmp_path / "array.npy"), np.full((5, 2), 3))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve room")
def test_room_is_taken_before_anything_is_written(tmp_path):
    array = memory_mapped.create(tmp_path / "array.npy", (1000, 64), "float32")
    assert (tmp_path / "array.npy").stat().st_blocks * 512 >= 256_000
    assert not array.any()


def test_a_short_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3_999})())
    with pytest.raises(OSError, match=r"needs 4,000 bytes .*; 3,999 are free"):
        memory_mapped.create(tmp_path / "array.npy", (100, 10), "float32")
    assert not list(tmp_path.iterdir())
    memory_mapped.create(tmp_path / "array.npy", (100, 10), "float16")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve room")
def test_room_that_cannot_be_reserved_is_refused_and_leaves_no_file(tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fails)
    expected = r"^16 bytes cannot be reserved in .* \(No space left on device\)\. Use less$"
    with pytest.raises(OSError, match=expected):
        memory_mapped.create(tmp_path / "array.npy", (2, 2), "float32", "Use less")
    assert not list(tmp_path.iterdir())


def test_a_file_above_the_limit_of_the_shell_is_refused_and_left_out(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # `ulimit -f`
    try:
        expected = r"^4,000 bytes cannot be reserved in .* \(File too large\)\. Use less$"
        with pytest.raises(OSError, match=expected):
            memory_mapped.create(tmp_path / "array.npy", (100, 10), "float32", "Use less")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_missing_permission_is_no_lack_of_room(tmp_path, monkeypatch):
    def refuse(path, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*array\.npy'"):
        memory_mapped.create(tmp_path / "array.npy", (10, 10), "float32", "Use less")


def test_what_an_interrupted_run_left_is_not_counted_as_taken(tmp_path, monkeypatch):
    path = tmp_path / "array.npy"
    path.write_bytes(b"half")
    seen = []
    monkeypatch.setattr(memory_mapped, "check_room", lambda *_: seen.append(path.exists()))
    memory_mapped.create(path, (2, 2), "float32")
    assert seen == [False]
