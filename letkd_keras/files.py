"""Files and folders that appear whole or not at all; JSON, CSV, checksums, models on disk."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# The end of the names of temporary files and folders, so that no file of a user is taken for one.
_TEMPORARY = ".letkd"

# Errors of a full disk, an exceeded quota, and a file above the limit of the shell (`ulimit -f`).
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_path(path):
    """Offer a path for a file or folder that other code writes, and move it to `path` at the end.

    Args:
        path: File or folder to write. Its folder is created if needed. A file replaces a file, and
            a folder a folder.

    Yields:
        A path with the same name in a new hidden folder beside it. What exists there at the end is
        moved to `path`; on an exception nothing is left. What a killed process left is removed when
        the same path is written again, or by `remove_leftovers`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary, lock = _hidden_folder(path)
    try:
        written = temporary / path.name
        yield written
        if path.is_dir() and written.is_dir():
            _replace_folder(path, written)
        else:
            written.replace(path)
    except Exception as error:
        _raise_if_full(error, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _replace_folder(path, written):
    """Move a new folder to the place of another one, which a rename cannot replace if it has files.

    The other one is moved beside the new one, and back if that cannot be moved.
    """
    replaced = written.with_name(f"{path.name}.replaced")
    path.replace(replaced)
    try:
        written.replace(path)
    except BaseException:
        replaced.replace(path)
        raise


@contextlib.contextmanager
def open_atomic(path):
    """Open a binary file that appears at `path` whole or not at all.

    Args:
        path: File to write. Its folder is created if needed; an existing file is replaced.

    Yields:
        A file open for writing, in a hidden folder beside `path` (`atomic_path`). At the end it is
        flushed to disk and moved.
    """
    with atomic_path(path) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _raise_if_full(error, path):
    """Raise the system's error for a full disk, where a library reports that in another way.

    An error of `write` has no name of a file. It gets the name of this one.
    """
    if isinstance(error, OSError) and error.errno is not None:
        if error.filename is None and error.errno in _FULL:
            error.filename = str(path)
        return
    message = str(error)
    for number in _FULL:
        if os.strerror(number) in message:
            raise OSError(number, os.strerror(number), str(path)) from error
    # NumPy knows only that less was written than requested.
    if re.fullmatch(r"\d+ requested and \d+ written", message):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def temporary_path(path):
    """A hidden path beside `path` that does not exist, for a moment's use."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")


def is_temporary(name, of=None):
    """Whether a name is that of a temporary file or folder of this package.

    Args:
        name: The name.
        of: Name of the file or folder that was written; `None` for any.
    """
    written = ".+" if of is None else re.escape(of)
    return re.fullmatch(rf"\.{written}\.[a-z0-9_]{{8}}{re.escape(_TEMPORARY)}", name) is not None


def remove_leftovers(path):
    """Remove the hidden folders that killed processes left when they wrote `path`.

    `atomic_path` locks its hidden folder. The system releases the lock when the process ends,
    however it ends, so that folders which another process still writes to are kept. Where the
    system cannot lock folders (Windows, some network file systems), all are kept.

    Args:
        path: The path that was given to `atomic_path`.
    """
    path = Path(path)
    if not path.parent.is_dir():
        return
    for folder in path.parent.iterdir():
        if is_temporary(folder.name, path.name) and folder.is_dir() and not folder.is_symlink():
            lock = _lock(folder, wait=False)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _hidden_folder(path):
    """A new hidden folder beside `path`, and its lock or `None`."""
    while True:
        folder = Path(tempfile.mkdtemp(_TEMPORARY, f".{path.name}.", path.parent))
        lock = _lock(folder, wait=True)
        if folder.exists():
            return folder, lock
        # Another process took it for a leftover before it was locked.
        if lock is not None:
            os.close(lock)


def _lock(path, wait):
    """Lock a folder; a descriptor to close, or `None` if that is not possible."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def write_text(path, text):
    """Write a text file whole or not at all."""
    with open_atomic(path) as file:
        file.write(text.encode())


def write_json(path, value):
    """Write a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path, columns, rows):
    """Write a CSV file whole or not at all.

    Args:
        path: The file.
        columns: Names of the columns.
        rows: Dictionaries by the names of the columns. A value that is missing is an empty cell.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path):
    """Read a JSON file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not JSON; the message names the file.
    """
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is not a JSON file ({error}).") from error


def save_model(model, path):
    """Save a `.keras` file whole or not at all."""
    with atomic_path(path) as temporary:
        model.save(temporary)


def save_figure(figure, path, **options):
    """Save a Matplotlib figure whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, **options)


def checksum(path):
    """SHA-256 of a file, or of the names and checksums of all files of a folder."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {checksum(file)}\n".encode())
    return digest.hexdigest()


def size_on_disk(path):
    """Bytes of a file, or of all files of a folder."""
    path = Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def check_writable(path, argument="path"):
    """Refuse a folder that cannot be created or written, before any long work.

    Nothing is left: a folder that does not exist is created and removed again.

    Raises:
        ValueError: With the system's reason.
    """
    path = Path(path)
    created = []
    try:
        created = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
        path.mkdir(parents=True, exist_ok=True)
        probe = temporary_path(path / "probe")
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"`{argument}` must be a folder that can be written ({error.strerror}). "
            f"Received: {argument}={str(path)!r}"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # not empty: another process uses it, too
            for folder in created:
                folder.rmdir()
