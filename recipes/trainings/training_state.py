"""The state of a training on disk, from which it continues after an interruption."""

import time
from pathlib import Path

import keras
import numpy as np

from letkd_keras import memory_mapped
from letkd_keras.files import atomic_path, checksum, write_csv
from letkd_keras.recipes.trainings import training_folder

_STATE = "state.json"
_ADVICE = "Free some space and run the same command again."


class SaveState(keras.callbacks.Callback):
    """Saves what an interrupted training needs to continue, after every epoch.

    `state.json` names the weights files of the last epoch and, where there is a validation set, of
    the best epoch so far, with their checksums and the metrics of all epochs. The files of an
    earlier epoch are deleted only when it is written. So the folder is consistent at any moment.
    `stopped` is added where another callback ended the training before its last epoch.
    `metrics.csv` has the same metrics for a reader.

    Args:
        folder: Folder of the training.
        state: What `read_state` returned.
        keeps_best: Whether the weights of the epoch that is best on validation images are kept.
        seconds: Least time between two states. That of the last epoch is always saved. Where the
            best epoch is kept, every epoch is.
    """

    def __init__(self, folder, state, keeps_best, seconds=0):
        super().__init__()
        self.folder = Path(folder)
        self.state = state
        self.keeps_best = keeps_best
        self.seconds = seconds
        self.rows = list(state["rows"])
        self.best = state["best"]
        self.saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
        # At the end of the epoch the optimizer has the learning rate of the next one.
        self.learning_rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch, "learning_rate": self.learning_rate, **(logs or {})}
        row["seconds"] = time.perf_counter() - self.started
        self.rows.append({name: float(value) for name, value in row.items()})
        # Of equal epochs, the first one is the best.
        earlier = (row["val_accuracy"] for row in self.rows[:-1])
        if self.keeps_best and row["val_accuracy"] > max(earlier, default=-1.0):
            self.best = self._save_weights(f"best-{epoch + 1}.weights.h5")
        waits = time.monotonic() < self.saved + self.seconds
        if self.keeps_best or not waits or epoch + 1 == self.params["epochs"]:
            self._save_state()

    def on_train_end(self, logs=None):
        if self.model.stop_training:
            if self.state["epochs"] < len(self.rows):
                self._save_state()
            training_folder.write_checked_json(
                self.folder / _STATE, {**self.state, "stopped": True}
            )

    def _save_state(self):
        self.saved = time.monotonic()
        epochs = len(self.rows)
        last = self._save_weights(f"state-{epochs}.weights.h5")
        self.state = {"epochs": epochs, "last": last, "best": self.best, "rows": self.rows}
        # Before the state: nothing would write it again after the last epoch. It is written as a
        # whole, so an epoch that is trained again has one row.
        write_csv(self.folder / "metrics.csv", list(self.rows[0]), self.rows)
        training_folder.write_checked_json(self.folder / _STATE, self.state)
        kept = {file["name"] for file in (last, self.best) if file}
        for file in self.folder.glob("*.weights.h5"):
            if file.name not in kept:
                file.unlink()

    def _save_weights(self, name):
        with atomic_path(self.folder / name) as path:
            # HDF5 ends the process with SIGSEGV if the disk becomes full while it writes.
            memory_mapped.check_room(self.folder, self._most_bytes(), _ADVICE)
            self.model.save_weights(path)
        return {"name": name, "sha256": checksum(self.folder / name)}

    def _most_bytes(self):
        """More bytes than a file of the weights and of the optimizer's variables has."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        values = sum(int(np.prod(v.shape)) * (8 if "64" in v.dtype else 4) for v in variables)
        return values + (len(variables) << 13) + (1 << 16)  # and HDF5's groups


def read_state(folder):
    """The state of an interrupted training, or of one that has not begun.

    Args:
        folder: Folder of the training.

    Returns:
        Dictionary of `epochs` (finished), the files `last` and `best` (or `None`) and `rows`, and
        `stopped` where a callback ended the training.

    Raises:
        ValueError: If a file is damaged; the message names it and says what to do.
    """
    folder = Path(folder)
    if not (folder / _STATE).exists():
        return {"epochs": 0, "last": None, "best": None, "rows": []}
    state = training_folder.read_checked_json(folder / _STATE)
    for file in (state["last"], state["best"]):
        if file is not None:
            training_folder.check_file(folder / file["name"], file["sha256"])
    return state


def is_over(state, epochs):
    """Whether a training has had all its epochs, or was ended by a callback.

    Args:
        state: What `read_state` returned.
        epochs: Epochs of its schedule.
    """
    return state["epochs"] >= epochs or state.get("stopped", False)


def load_state(model, file):
    """Load the weights of an epoch that `SaveState` wrote, the optimizer's too."""
    model.optimizer.build(model.trainable_variables)
    model.load_weights(file)


def finish(folder, result):
    """Mark a training as finished, once its model is saved, and delete its state.

    Deleted too is the error of another start, which may have found the training at work.
    """
    folder = Path(folder)
    training_folder.write_checked_json(folder / "result.json", result)
    for file in (folder / _STATE, folder / "error.txt", *folder.glob("*.weights.h5")):
        file.unlink(missing_ok=True)
