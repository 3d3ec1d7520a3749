"""Arrays in files that are memory-mapped: read and written a part at a time."""

import mmap
import os
import shutil
from pathlib import Path

import numpy as np

# Rows that `take` copies at a time. The system maps many pages around each.
_ROWS = 32


def create(path, shape, dtype, advice=""):
    """Create an `.npy` file as a writable array, unless the disk has no room for it.

    All of its room is reserved at once. If others filled the disk later, a write into mapped memory
    would end the process with SIGBUS.

    Args:
        path: The file. An existing one is replaced.
        shape: Shape of the array.
        dtype: Type of the array.
        advice: What an error advises.

    Returns:
        `numpy.memmap` of zeros.

    Raises:
        OSError: If fewer bytes are free than needed; both numbers are given. No file is left.
    """
    path = Path(path)
    # NumPy writes the names of its own integers into the header, and then refuses to read it.
    shape = tuple(map(int, shape))
    path.unlink(missing_ok=True)  # what an interrupted run left would not count as free
    needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
    check_room(path.parent, needed, advice)
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
    except PermissionError:  # it names the file
        raise
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(
            f"{needed:,} bytes cannot be reserved in {path.parent} ({error.strerror}). "
            f"{advice}".rstrip()
        ) from error
    return array


def check_room(folder, needed, advice=""):
    """Refuse to use more bytes than are free in a folder.

    Args:
        folder: The folder, which need not exist yet.
        needed: Number of bytes.
        advice: What the error advises.

    Raises:
        OSError: If fewer bytes are free.
    """
    existing = next(
        path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OSError(
            f"A file needs {needed:,} bytes in {folder}; {free:,} are free. {advice}".rstrip()
        )


def physical_memory():
    """Bytes of memory of this computer."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def take(array, rows):
    """Copy `array[rows]` without keeping more of the file in memory than the copy.

    The system also maps the pages around each page that is read. Rows spread over a file would
    bring nearly all of it into memory.
    """
    taken = np.empty((len(rows), *array.shape[1:]), dtype=array.dtype)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        taken[part] = array[rows[part]]
        release(array)
    return taken


def release(array):
    """Release the pages of a memory-mapped array; other arrays are left as they are.

    What was read or written stays in the file (and in the system's page cache while there is
    room), but no longer counts as memory of this process.
    """
    while array is not None and not isinstance(array, mmap.mmap):
        array = getattr(array, "base", None)
    if array is not None and hasattr(array, "madvise"):
        array.madvise(mmap.MADV_DONTNEED)
