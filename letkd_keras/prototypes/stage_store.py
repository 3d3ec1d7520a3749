"""Where finished stages are kept: a folder that survives the process, or memory."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np

from letkd_keras.files import open_atomic

_RECORD = "stage.json"
_CHECKPOINT = "checkpoint.npz"


class MemoryStages:
    """Stages of a run that lives and dies with the process."""

    durable = False

    def __init__(self):
        self._stages = {}

    def has(self, stage):
        """Whether a stage is finished."""
        return stage in self._stages

    def load(self, stage):
        """Arrays of a finished stage by name."""
        return self._stages[stage]

    def save(self, stage, arrays):
        """Keep a stage's arrays."""
        self._stages[stage] = dict(arrays)

    def drop(self, stage, names):
        """Free arrays that no later stage needs."""
        for name in names:
            self._stages[stage].pop(name, None)

    def remove_all(self):
        """Free everything."""
        self._stages.clear()

    def save_checkpoint(self, stage, arrays):
        """Nothing to keep: an interruption ends the process."""

    def load_checkpoint(self, stage):
        """No checkpoint."""
        return None


class WorkDir:
    """Stages in a folder, so that an interrupted run goes on from the last one finished.

    A stage is a sub-folder of `.npy` files; it counts only once its record, with the checksum of
    each file, has been renamed into place. What an interruption leaves without a record is
    overwritten.

    Args:
        path: Folder; made if missing.
        settings: What the results depend on, as JSON types. A folder begun with others is refused.

    Raises:
        ValueError: If the folder belongs to a run with other settings; they are listed.
    """

    durable = True

    def __init__(self, path, settings):
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._verified = set()
        settings = json.loads(json.dumps(settings))
        file = self.path / "settings.json"
        if file.exists():
            _check_settings(self.path, json.loads(file.read_text()), settings)
        else:
            self._write_json(file, settings)

    def folder(self, stage):
        """Folder to put a stage's files in before `save`."""
        folder = self.path / stage
        folder.mkdir(exist_ok=True)
        return folder

    def has(self, stage):
        """Whether a stage is finished."""
        return (self.path / stage / _RECORD).exists()

    def load(self, stage):
        """Arrays of a finished stage by name, memory-mapped.

        Raises:
            ValueError: If a file does not match its checksum.
        """
        folder = self.path / stage
        arrays = {}
        for name, checksum in json.loads((folder / _RECORD).read_text()).items():
            file = folder / f"{name}.npy"
            if file not in self._verified and (not file.exists() or _checksum(file) != checksum):
                raise ValueError(
                    f"{file} is damaged: it does not match its checksum. Remove {folder} to "
                    "compute this stage again."
                )
            self._verified.add(file)
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        return arrays

    def save(self, stage, arrays):
        """Write a stage's arrays; those already memory-mapped in its folder are left in place."""
        folder = self.folder(stage)
        for name, array in arrays.items():
            file = folder / f"{name}.npy"
            if isinstance(array, np.memmap) and Path(array.filename) == file.resolve():
                array.flush()
                continue
            with open_atomic(file) as opened:
                np.save(opened, array, allow_pickle=False)
            self._verified.discard(file)
        self._write_json(
            folder / _RECORD, {name: _checksum(folder / f"{name}.npy") for name in arrays}
        )

    def drop(self, stage, names):
        """Remove arrays that no later stage needs."""
        folder = self.path / stage
        record = json.loads((folder / _RECORD).read_text())
        kept = {name: checksum for name, checksum in record.items() if name not in names}
        self._write_json(folder / _RECORD, kept)
        for name in names:
            (folder / f"{name}.npy").unlink(missing_ok=True)

    def remove(self, stage):
        """Remove a stage."""
        (self.path / stage / _RECORD).unlink()
        shutil.rmtree(self.path / stage)

    def remove_all(self):
        """Remove the folder and everything in it."""
        # Moved away first: a folder half removed would look like a damaged run.
        aside = self.path.with_name(f"{self.path.name}.removed")
        shutil.rmtree(aside, ignore_errors=True)
        self.path.rename(aside)
        shutil.rmtree(aside)

    def save_checkpoint(self, stage, arrays):
        """Keep the state of an unfinished stage in place of an earlier one."""
        with open_atomic(self.folder(stage) / _CHECKPOINT) as file:
            np.savez(file, **arrays)

    def load_checkpoint(self, stage):
        """The arrays of the last checkpoint, or `None`."""
        file = self.path / stage / _CHECKPOINT
        if not file.exists():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)

    @staticmethod
    def _write_json(path, value):
        with open_atomic(path) as file:
            file.write(json.dumps(value, indent=1, sort_keys=True).encode())


def _check_settings(path, expected, received):
    differing = sorted(
        name
        for name in expected.keys() | received.keys()
        if expected.get(name) != received.get(name)
    )
    if differing:
        listed = ", ".join(f"{n}={received.get(n)!r} (was {expected.get(n)!r})" for n in differing)
        raise ValueError(
            f"`workdir` {path} belongs to a run with other settings. Received: {listed}"
        )


def _checksum(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
