import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path):
    """A binary file that appears at `path` whole or not at all.

    Args:
        path: File to write; its folder is made if missing, an existing file is replaced.

    Yields:
        A file open for writing, in the same folder under another name; it is flushed to disk and
        renamed at the end, removed on an exception.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o666 & ~_umask())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


@contextmanager
def moved_into_place(path):
    """A file or folder, written by other people's code, that appears at `path` whole or not at all.

    Args:
        path: File or folder to write; its folder is made if missing, what is there is replaced.

    Yields:
        A path of the same name in a new hidden folder beside it, where to write. What stands there
        at the end is moved to `path`; on an exception nothing is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        written = aside / path.name
        yield written
        if path.is_dir():
            # A folder cannot be renamed over one that has files.
            path.replace(aside / "replaced")
        written.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask
