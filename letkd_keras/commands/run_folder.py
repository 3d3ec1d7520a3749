"""Folders of results: what they were made with, and that one process at a time writes to them."""

import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from letkd_keras import __version__
from letkd_keras.files import check_writable, is_temporary, read_json, write_json

CONFIG = "config.json"
# The key of config.json that marks a folder as one of this package.
_MARK = "letkd_keras"
_LOCK = ".lock"
_OWNER = ".lock.json"
_ABSENT = object()


class OtherSettings(ValueError):
    """A folder holds results of other settings.

    Args:
        message: The sentence.
        differing: What differs, in a few words.
    """

    def __init__(self, message, differing=""):
        super().__init__(message)
        self.differing = differing


class RunFolder:
    """A folder of results that an interrupted run continues in.

    `config.json` marks the folder and holds everything that its results depend on. A folder with
    other files and without this mark is refused, so that nothing of a user is overwritten.

    Args:
        path: The folder. It is created if needed.
        config: Dictionary of everything that the results depend on, JSON types.
        argument: Name of the argument that errors give to `path`.
        open_keys: Keys of `config` that may differ from those in the folder, such as `"trials"` or
            `"data.source"` for a key of the dictionary `config["data"]`. `config.json` then keeps
            the new values.

    Attributes:
        path: The folder, `pathlib.Path`.

    Raises:
        ValueError: If the folder holds other files or results of another configuration (the keys
            that differ are listed), cannot be written, or is in use by another process.
    """

    def __init__(self, path, config, *, argument="out", open_keys=()):
        self.path = Path(path)
        self._config = json.loads(json.dumps(config))
        self._argument = argument
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(
                f"`{argument}` must be a folder. Received: {argument}={str(path)!r}, which is a "
                "file"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._cannot_write(error) from error
        check_writable(self.path, argument)
        if not (self.path / CONFIG).exists():
            self._refuse_other_files()
        elif not self._check_config(open_keys):
            return
        with self.locked():
            if not (self.path / CONFIG).exists() or self._check_config(open_keys):
                self._write_json(CONFIG, {_MARK: __version__, **self._config})

    def __truediv__(self, name):
        return self.path / name

    @contextmanager
    def locked(self):
        """Keep other processes from writing to the folder meanwhile.

        The system releases the lock when a process ends, however it ends.

        Raises:
            ValueError: If another process has the lock; its process id and host are named.
        """
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ValueError(
                f"`{self._argument}` {str(self.path)!r} is in use by {self._owner()}. Wait for it "
                "to end, or choose another folder."
            ) from None
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            self._write_json(_OWNER, {"pid": os.getpid(), "host": socket.gethostname()})
            yield self
        finally:
            (self.path / _OWNER).unlink(missing_ok=True)
            lock.release()

    def _refuse_other_files(self):
        others = sorted(file.name for file in self.path.iterdir() if not is_own_hidden(file.name))
        if others:
            raise ValueError(
                f"`{self._argument}` must be a new or empty folder, or one of an earlier run. "
                f"Received: {self._argument}={str(self.path)!r}, which has no {CONFIG} but other "
                f"files ({others[0]})"
            )

    def _check_config(self, open_keys):
        """Refuse another configuration; whether an open key differs."""
        saved = read_config(self.path, self._argument)
        differing = differences(saved, self._config, ignore=open_keys)
        if differing:
            differing = "; ".join(differing)
            raise OtherSettings(
                f"`{self._argument}` {str(self.path)!r} holds results of other settings: "
                f"{differing}. Choose another folder, or repeat the earlier settings.",
                differing,
            )
        return saved != self._config

    def _write_json(self, name, value):
        try:
            write_json(self.path / name, value)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error):
        return ValueError(
            f"`{self._argument}` must be a folder that can be written ({error.strerror}). "
            f"Received: {self._argument}={str(self.path)!r}"
        )

    def _owner(self):
        try:
            owner = read_json(self.path / _OWNER)
            return f"process {owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def is_run_folder(path):
    """Whether a path is a folder that `RunFolder` marked."""
    try:
        return _MARK in read_json(Path(path) / CONFIG)
    except (OSError, ValueError, TypeError):
        return False


def read_config(path, argument="out"):
    """Read the configuration of a run folder.

    Args:
        path: The folder.
        argument: Name of the argument that errors give to `path`.

    Returns:
        The dictionary that the folder was created with.

    Raises:
        ValueError: If it is not a run folder, or its `config.json` is damaged.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise ValueError(
            f"`{argument}` must be a folder with a {CONFIG}. Received: {argument}={str(path)!r}"
        )
    try:
        config = read_json(file)
    except ValueError as error:
        raise ValueError(
            f"{error} Restore this file, or remove the folder to start again."
        ) from error
    if not isinstance(config, dict) or _MARK not in config:
        raise ValueError(
            f"`{argument}` must be a folder of this program. Received: {argument}={str(path)!r}, "
            f"whose {CONFIG} is of another program"
        )
    return {key: value for key, value in config.items() if key != _MARK}


def differences(old, new, ignore=(), names=("before", "now")):
    """List the settings in which two configurations differ.

    Args:
        old: Dictionary of JSON types, which may contain dictionaries.
        new: Likewise.
        ignore: Keys that may differ, `"data"` or `"data.source"`.
        names: What the two configurations are called.

    Returns:
        A list such as `["data.image_size: 32 before, 64 now"]`.
    """
    old, new = _flat(old), _flat(new)
    return [
        f"{key}: {_shown(old, key)} {names[0]}, {_shown(new, key)} {names[1]}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, _ABSENT) != new.get(key, _ABSENT) and not _is_below(key, ignore)
    ]


def is_own_hidden(name):
    """Whether a file name is that of a lock or a temporary file of this package."""
    return name in (_LOCK, _OWNER) or is_temporary(name)


def _flat(config, prefix=""):
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(config, key):
    return json.dumps(config[key]) if key in config else "absent"


def _is_below(key, parents):
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)
