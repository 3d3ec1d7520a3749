"""A schedule, and training by it that continues where it was interrupted."""

import csv
import importlib.util
import io
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from letkd_keras import optimizers
from letkd_keras.callbacks import ReseedEachEpoch, StopOnNonFiniteLoss
from letkd_keras.data import steps_per_epoch
from letkd_keras.data.keras_cv_policies import mixes_labels
from letkd_keras.files import atomic_path, checksum, write_text
from letkd_keras.recipes import results


@dataclass(frozen=True)
class Schedule:
    """Stochastic gradient descent as in the published results.

    Attributes:
        epochs: Number of epochs.
        learning_rate: Learning rate of the first epochs.
        milestones: Completed epochs after which the learning rate is divided by 10.
        batch_size: Images in a step, over all devices.
        momentum: Nesterov momentum.
        weight_decay: Coupled weight decay of all trainable variables.
    """

    epochs: int
    learning_rate: float
    milestones: tuple
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4

    @classmethod
    def of(cls, settings, learning_rate, epochs, batch_size):
        """The schedule of a data set's `Settings`, with milestones scaled to the epochs."""
        milestones = optimizers.scale_milestones(
            settings.milestones, epochs, settings.milestones_of or settings.epochs
        )
        return cls(
            epochs,
            learning_rate,
            tuple(milestones),
            batch_size,
            weight_decay=settings.weight_decay,
        )

    def config(self):
        """The schedule as a JSON-like dictionary."""
        return {**asdict(self), "milestones": list(self.milestones)}

    @classmethod
    def from_config(cls, config):
        """The schedule of such a dictionary."""
        return cls(**{**config, "milestones": tuple(config["milestones"])})

    def optimizer(self, steps):
        """A new optimizer for epochs of so many steps."""
        return optimizers.TorchSGD(
            optimizers.epoch_decay(self.learning_rate, self.milestones, steps),
            momentum=self.momentum,
            nesterov=True,
            weight_decay=self.weight_decay,
        )


class SaveState(keras.callbacks.Callback):
    """Saves what an interrupted training needs to continue, after every epoch.

    `state.json` names the weights files of the last epoch and, where there is a validation set, of
    the best epoch so far, with their checksums and the metrics of all epochs. The files of an
    earlier epoch are deleted only when it is written. So the folder is consistent at any moment.
    `metrics.csv` has the same metrics for a reader.

    Args:
        folder: Folder of the training.
        state: What `read_state` returned.
        keeps_best: Whether the weights of the epoch that is best on validation images are kept.
    """

    def __init__(self, folder, state, keeps_best):
        super().__init__()
        self.folder = Path(folder)
        self.keeps_best = keeps_best
        self.rows = list(state["rows"])
        self.best = state["best"]

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
        last = self._save_weights(f"state-{epoch + 1}.weights.h5")
        state = {"epochs": epoch + 1, "last": last, "best": self.best, "rows": self.rows}
        results.write_checked_json(self.folder / _STATE, state)
        write_text(self.folder / "metrics.csv", _as_csv(self.rows))
        kept = {file["name"] for file in (last, self.best) if file}
        for file in self.folder.glob("*.weights.h5"):
            if file.name not in kept:
                file.unlink()

    def _save_weights(self, name):
        with atomic_path(self.folder / name) as path:
            self.model.save_weights(path)
        return {"name": name, "sha256": checksum(self.folder / name)}


_STATE = "state.json"


def _as_csv(rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_state(folder):
    """The state of an interrupted training, or of one that has not begun.

    Args:
        folder: Folder of the training.

    Returns:
        Dictionary of `epochs` (finished), the files `last` and `best` (or `None`) and `rows`.

    Raises:
        ValueError: If a file is damaged; the message names it and says what to do.
    """
    folder = Path(folder)
    if not (folder / _STATE).exists():
        return {"epochs": 0, "last": None, "best": None, "rows": []}
    state = results.read_checked_json(folder / _STATE)
    for file in (state["last"], state["best"]):
        if file is not None:
            results.check_file(folder / file["name"], file["sha256"])
    return state


def train(model, data, schedule, folder, *, seed, augmentation, with_rows=False, verbose=2):
    """Compile and fit a model, continuing where an earlier call was interrupted.

    Where the data have a validation set, it is evaluated after every epoch in place of the test
    set. The model then ends with the weights of the epoch that is best on it, and the test set is
    evaluated once, with these weights.

    Args:
        model: Model with logits as outputs, built and not compiled; trained in place.
        data: `ImageData`, or an object with its methods.
        schedule: `Schedule`.
        folder: Folder for `metrics.csv`, TensorBoard's logs and the state.
        seed: Seed of order and augmentation.
        augmentation: Options of the data's `training_batches`.
        with_rows: Whether batches come with the numbers of their images (`CRD`).
        verbose: Keras' verbosity.

    Returns:
        Dictionary of the result, accuracies in percent, epochs counted from 1: `accuracy_last` and
        `accuracy_best` of the last and of the best epoch on the test set, or with a validation set
        `accuracy_selected` on the test set and `accuracy_validation`; `best_epoch`, `epochs`,
        `seconds`.

    Raises:
        FloatingPointError: If the loss is not finite.
        ValueError: If a file that the training continues from is damaged.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = read_state(folder)
    steps = steps_per_epoch(data.train_examples, schedule.batch_size)
    if mixes_labels(augmentation):
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def evaluation_batches(split):
        batches = data.evaluation_batches(256, split)
        if not mixes_labels(augmentation):
            return batches
        return batches.map(
            lambda x, y: (x, keras.ops.one_hot(y, data.num_classes, dtype="float32"))
        )

    selects = data.has_validation
    model.compile(optimizer=schedule.optimizer(steps), loss=loss, metrics=["accuracy"])
    save_state = SaveState(folder, state, keeps_best=selects)
    first_epoch = state["epochs"]
    if first_epoch:
        model.optimizer.build(model.trainable_variables)
        model.load_weights(folder / state["last"]["name"])
    if first_epoch < schedule.epochs:
        model.fit(
            data.training_batches(
                schedule.batch_size,
                seed=seed,
                first_epoch=first_epoch,
                epochs=schedule.epochs,
                **({"with_rows": True} if with_rows else {}),
                **augmentation,
            ),
            validation_data=evaluation_batches("validation" if selects else "test"),
            shuffle=False,  # the batches are shuffled already
            steps_per_epoch=steps,
            initial_epoch=first_epoch,
            epochs=schedule.epochs,
            verbose=verbose,
            callbacks=[
                ReseedEachEpoch(seed),
                StopOnNonFiniteLoss(),
                *_tensorboard(folder / "tensorboard"),
                save_state,
            ],
        )
    result = summary(save_state.rows)
    if not selects:
        return result
    model.load_weights(folder / save_state.best["name"])
    accuracy = model.evaluate(evaluation_batches("test"), return_dict=True, verbose=0)["accuracy"]
    del result["accuracy_last"]
    validation = result.pop("accuracy_best")
    return {"accuracy_selected": 100 * accuracy, "accuracy_validation": validation, **result}


def _tensorboard(folder):
    """TensorBoard's callback, where TensorFlow is installed."""
    if importlib.util.find_spec("tensorflow") is None:
        return []
    return [keras.callbacks.TensorBoard(str(folder), write_graph=False)]


def summary(rows):
    """Last and best epoch of the metrics of a training."""
    best = max(rows, key=lambda row: row["val_accuracy"])
    return {
        "accuracy_last": 100 * rows[-1]["val_accuracy"],
        "accuracy_best": 100 * best["val_accuracy"],
        "best_epoch": int(best["epoch"]) + 1,
        "epochs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
    }


def finish(folder, result):
    """Mark a training as finished, once its model is saved, and delete its state."""
    folder = Path(folder)
    results.write_checked_json(folder / "result.json", result)
    for file in (folder / _STATE, *folder.glob("*.weights.h5")):
        file.unlink(missing_ok=True)
