"""Where finished steps of the fit are kept: a folder that survives the process, or memory."""

import contextlib
import shutil
import zipfile
from pathlib import Path

import numpy as np

from letkd_keras.commands.run_folder import CONFIG, RunFolder, is_own_hidden, is_run_folder
from letkd_keras.files import (
    checksum,
    is_temporary,
    open_atomic,
    read_json,
    temporary_path,
    write_json,
)

# In the order of the fit.
STEPS = ("features", "penultimate", "projected", "subclasses", "scores")

_FOLDER = "steps"
_RECORD = "step.json"
_CHECKPOINT = "checkpoint.npz"


class MemorySteps:
    """Steps of a fit that ends with its process."""

    def __init__(self):
        self._steps = {}

    def locked(self):
        """Nothing to lock."""
        return contextlib.nullcontext()

    def has(self, step):
        """Whether a step is finished."""
        return step in self._steps

    def load(self, step):
        """Arrays of a finished step by name."""
        return self._steps[step]

    def save(self, step, arrays):
        """Keep a step's arrays."""
        self._steps[step] = dict(arrays)

    def drop(self, step, names):
        """Free arrays that no later step needs."""
        for name in names:
            self._steps[step].pop(name, None)

    def save_checkpoint(self, step, arrays):
        """Nothing to keep: an interruption ends the process."""

    def load_checkpoint(self, step):
        """No checkpoint."""
        return None


class WorkFolder:
    """Steps in a folder, so that an interrupted fit continues after the last finished one.

    A step is a folder of `.npy` files in the sub-folder `steps`. It counts only once its record,
    with the checksum of each file, is in it. What an interruption leaves without a record is
    overwritten.

    Args:
        path: Folder; created if needed. It must be new, empty or one of an earlier fit.
        settings: What the results depend on, as JSON types.

    Raises:
        ValueError: If the folder holds other files or a fit with other settings; they are listed.
    """

    def __init__(self, path, settings):
        self._folder = RunFolder(path, settings, argument="workdir")
        self.path = self._folder.path / _FOLDER
        self.path.mkdir(exist_ok=True)
        self._verified = set()

    def locked(self):
        """Keep other processes from running steps here meanwhile."""
        return self._folder.locked()

    def folder(self, step):
        """Folder to put a step's files in before `save`."""
        folder = self.path / step
        folder.mkdir(exist_ok=True)
        return folder

    def has(self, step):
        """Whether a step is finished."""
        return (self.path / step / _RECORD).exists()

    def load(self, step):
        """Arrays of a finished step by name, memory-mapped.

        Raises:
            ValueError: If a file does not match its checksum.
        """
        folder = self.path / step
        arrays = {}
        for name, expected in self._record(step).items():
            file = folder / f"{name}.npy"
            if file not in self._verified and (not file.exists() or checksum(file) != expected):
                raise ValueError(
                    f"{file} is damaged: it does not match its checksum. Remove {folder} to "
                    "compute this step again."
                )
            self._verified.add(file)
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        return arrays

    def save(self, step, arrays):
        """Write a step's arrays. Those already memory-mapped in its folder stay where they are."""
        folder = self.folder(step)
        for name, array in arrays.items():
            file = folder / f"{name}.npy"
            if isinstance(array, np.memmap) and Path(array.filename) == file.resolve():
                array.flush()
                continue
            with open_atomic(file) as opened:
                np.save(opened, array, allow_pickle=False)
        write_json(folder / _RECORD, {name: checksum(folder / f"{name}.npy") for name in arrays})

    def drop(self, step, names):
        """Remove arrays that no later step needs."""
        folder = self.path / step
        record = self._record(step)
        kept = {name: expected for name, expected in record.items() if name not in names}
        write_json(folder / _RECORD, kept)
        for name in names:
            (folder / f"{name}.npy").unlink(missing_ok=True)

    def save_checkpoint(self, step, arrays):
        """Keep the state of an unfinished step in place of an earlier one."""
        with open_atomic(self.folder(step) / _CHECKPOINT) as file:
            np.savez(file, **arrays)

    def load_checkpoint(self, step):
        """The arrays of the last checkpoint, or `None`."""
        file = self.path / step / _CHECKPOINT
        if not file.exists():
            return None
        try:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no zip file")
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in ("number", "centers")}
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{file} is damaged ({error}). Remove it to compute this step from its beginning."
            ) from error

    def _record(self, step):
        """Checksums of a finished step's files by name."""
        file = self.path / step / _RECORD
        try:
            record = read_json(file)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{file} is damaged. Remove {file.parent} to compute this step again.")
        return record


def remove_workdir(path):
    """Remove the steps of a finished fit, and the folder if nothing else is in it.

    Files of others stay. A folder that no fit has marked is left alone.

    Args:
        path: The `workdir` of `fit_prototypes`.
    """
    path = Path(path)
    if not is_run_folder(path):
        return
    if (path / _FOLDER).exists():
        # Under another name first: a fit must not continue from steps that are half removed.
        (path / _FOLDER).rename(temporary_path(path / _FOLDER))
    # Also what a removal that was interrupted or a write that was killed has left.
    for left in list(path.iterdir()):
        if left.is_dir() and is_temporary(left.name):
            shutil.rmtree(left)
        elif left.is_file() and is_own_hidden(left.name):
            left.unlink(missing_ok=True)
    (path / CONFIG).unlink()
    with contextlib.suppress(OSError):
        path.rmdir()
