"""Arrays in files, read and written a part at a time."""

import mmap
import os
import shutil
from pathlib import Path

import numpy as np

# Rows taken at a time: many pages are mapped around each.
_ROWS = 32


def create(path, shape, dtype):
    """A new `.npy` file as a writable array, refused where the disk has no room for it.

    The room is taken at once: a disk that others fill meanwhile would end the process by SIGBUS at
    a write.

    Raises:
        OSError: If fewer bytes are free than needed; both numbers are given.
    """
    Path(path).unlink(missing_ok=True)  # what an interrupted run left would not count as free
    check_room(Path(path).parent, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with Path(path).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
    return array


def check_room(folder, needed):
    """Raise an `OSError` if `folder`, which need not be there yet, has fewer bytes free."""
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"The feature cache needs {needed:,} bytes in {folder}; {free:,} are free. Use "
            "cache='float16', another workdir, or no cache (k-means then runs on what fits into "
            "`memory`)."
        )


def take(array, rows):
    """`array[rows]` as a new array, without holding more of a file than what is taken.

    The system maps the neighbours of each page touched: rows spread over a file would bring in
    nearly all of it.
    """
    taken = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        taken[part] = array[rows[part]]
        release(array)
    return taken


def release(array):
    """Let go of the pages of a memory-mapped array held so far; others are left alone.

    What was read or written stays in the file (and in the system's page cache while there is
    room), but no longer counts as this process's memory.
    """
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    if array is not None and hasattr(array, "madvise"):
        array.madvise(mmap.MADV_DONTNEED)
