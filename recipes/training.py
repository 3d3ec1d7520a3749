"""A schedule, and training by it that goes on where it was interrupted."""

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
from letkd_keras.distillers import CRD
from letkd_keras.recipes.run_folder import read_json, write_json, write_text


@dataclass(frozen=True)
class Schedule:
    """Stochastic gradient descent as the published results have it.

    Attributes:
        epochs: Number of epochs.
        learning_rate: Rate of the first epochs.
        milestones: Completed epochs after which the rate falls to a tenth.
        batch_size: Images a step, over all devices.
        momentum: Nesterov momentum.
        weight_decay: Coupled weight decay of every trainable variable.
    """

    epochs: int
    learning_rate: float
    milestones: tuple
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {name}={getattr(self, name)}"
                )

    def optimizer(self, steps):
        """A new optimizer for epochs of so many steps."""
        return optimizers.TorchSGD(
            optimizers.epoch_decay(self.learning_rate, self.milestones, steps),
            momentum=self.momentum,
            nesterov=True,
            weight_decay=self.weight_decay,
        )


def cifar_schedule(learning_rate=0.05, epochs=240, batch_size=64):
    """The paper's schedule for CIFAR-100, its milestones scaled to the epochs."""
    milestones = tuple(optimizers.scale_milestones((150, 180, 210), epochs, 240))
    return Schedule(epochs, learning_rate, milestones, batch_size)


_STATE = "state.weights.h5"
_BEST = "best.weights.h5"


class MetricsLog(keras.callbacks.Callback):
    """`metrics.csv`: a row for each epoch, whole after every one.

    Rows of epochs that are trained again after an interruption are replaced.
    """

    def __init__(self, path):
        super().__init__()
        self.path = Path(path)

    def on_train_begin(self, logs=None):
        self.rows = read_metrics(self.path) if self.path.exists() else []

    def on_epoch_begin(self, epoch, logs=None):
        self.rows = [row for row in self.rows if row["epoch"] < epoch]
        self.started = time.perf_counter()
        # At the end the optimizer's rate is already that of the next epoch.
        self.rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch, "learning_rate": self.rate, **(logs or {})}
        row["seconds"] = time.perf_counter() - self.started
        self.rows.append({name: float(value) for name, value in row.items()})
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]))
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


class SaveState(keras.callbacks.Callback):
    """Weights and optimizer after every epoch in one file, which is whole at any moment.

    The optimizer's number of steps tells the epoch, so that there is no second file to disagree.
    """

    def __init__(self, path):
        super().__init__()
        self.path = Path(path)

    def on_epoch_end(self, epoch, logs=None):
        aside = self.path.with_name("state.part.weights.h5")
        self.model.save_weights(aside, overwrite=True)
        aside.replace(self.path)


class KeepBest(keras.callbacks.Callback):
    """The weights of the epoch that is best on validation images, of equal ones the first.

    Args:
        path: File of the weights.
        metrics: `metrics.csv` of the epochs before an interruption.
    """

    def __init__(self, path, metrics):
        super().__init__()
        self.path = Path(path)
        self.metrics = Path(metrics)

    def on_epoch_begin(self, epoch, logs=None):
        rows = read_metrics(self.metrics) if self.metrics.exists() else []
        before = [row["val_accuracy"] for row in rows if row["epoch"] < epoch]
        self.best = max(before, default=-1.0)

    def on_epoch_end(self, epoch, logs=None):
        if logs["val_accuracy"] > self.best:
            aside = self.path.with_name("best.part.weights.h5")
            self.model.save_weights(aside, overwrite=True)
            aside.replace(self.path)


def read_metrics(path):
    """Rows of a `metrics.csv`, numbers as floats."""
    with Path(path).open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def train(model, data, schedule, folder, *, seed, augmentation, verbose=2):
    """Compile and fit a model, going on where an earlier call was interrupted.

    Where the data have a validation set, it is evaluated after every epoch in place of the test
    set; the model ends with the weights of the epoch that is best on it, and with these alone the
    test set is read, once.

    Args:
        model: Model giving logits, built and not compiled; trained in place.
        data: `ImageData` or what has its methods.
        schedule: `Schedule`.
        folder: Where `metrics.csv`, TensorBoard logs and the state go.
        seed: Seed of order and augmentation.
        augmentation: Options of the data's `training_batches`.
        verbose: Keras' verbosity.

    Returns:
        Dictionary of the result, accuracies in percent, epochs counted from 1: `accuracy_last` and
        `accuracy_best` of the last and of the best epoch on the test set, or with a validation set
        `accuracy_chosen` on the test set and `accuracy_validation`; `best_epoch`, `epochs`,
        `seconds`.

    Raises:
        FloatingPointError: If the loss is not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    steps = steps_per_epoch(data.train_examples, schedule.batch_size)
    if mixes_labels(augmentation):
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def batches(split):
        found = data.evaluation_batches(256, split)
        if not mixes_labels(augmentation):
            return found
        return found.map(lambda x, y: (x, keras.ops.one_hot(y, data.num_classes, dtype="float32")))

    chooses = chooses_epoch(data)
    keep_best = [KeepBest(folder / _BEST, folder / "metrics.csv")] if chooses else []
    model.compile(optimizer=schedule.optimizer(steps), loss=loss, metrics=["accuracy"])
    first_epoch = _restore(model, folder / _STATE, steps)
    if first_epoch < schedule.epochs:
        model.fit(
            data.training_batches(
                schedule.batch_size,
                seed=seed,
                first_epoch=first_epoch,
                epochs=schedule.epochs,
                **({"with_rows": True} if isinstance(model, CRD) else {}),
                **augmentation,
            ),
            validation_data=batches("validation" if chooses else "test"),
            shuffle=False,  # the batches come shuffled
            steps_per_epoch=steps,
            initial_epoch=first_epoch,
            epochs=schedule.epochs,
            verbose=verbose,
            callbacks=[
                ReseedEachEpoch(seed),
                StopOnNonFiniteLoss(),
                *keep_best,
                MetricsLog(folder / "metrics.csv"),
                *_tensorboard(folder / "tensorboard"),
                SaveState(folder / _STATE),
            ],
        )
    result = summary(read_metrics(folder / "metrics.csv"))
    if not chooses:
        return result
    model.load_weights(folder / _BEST)
    chosen = model.evaluate(batches("test"), return_dict=True, verbose=0)["accuracy"]
    del result["accuracy_last"]
    validation = result.pop("accuracy_best")
    return {"accuracy_chosen": 100 * chosen, "accuracy_validation": validation, **result}


def _tensorboard(folder):
    """TensorBoard's logs, which TensorFlow writes, where it is installed."""
    if importlib.util.find_spec("tensorflow") is None:
        return []
    return [keras.callbacks.TensorBoard(str(folder), write_graph=False)]


def chooses_epoch(data):
    """Whether a data set has images held out to choose the epoch by."""
    return getattr(data, "x_validation", None) is not None


def accuracies(chooses):
    """Names of the accuracies of a result, with what a table calls them.

    Args:
        chooses: Whether there was a validation set to choose the epoch by.
    """
    if chooses:
        return {
            "accuracy_chosen": "top-1 on test images, epoch chosen on validation images",
            "accuracy_validation": "top-1 on validation images, that epoch",
        }
    return {"accuracy_last": "top-1, last epoch", "accuracy_best": "top-1, best epoch on test"}


def accuracy_of(result):
    """The accuracy of a result that stands for the network that was saved."""
    return result.get("accuracy_chosen", result.get("accuracy_last"))


def _restore(model, state, steps):
    """Load the state of an interrupted training, if there is one; the epoch to go on with."""
    if not state.exists():
        return 0
    model.optimizer.build(model.trainable_variables)
    model.load_weights(state)
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations)) // steps


def summary(rows):
    """Last and best epoch of the rows of a `metrics.csv`."""
    best = max(rows, key=lambda row: row["val_accuracy"])
    return {
        "accuracy_last": 100 * rows[-1]["val_accuracy"],
        "accuracy_best": 100 * best["val_accuracy"],
        "best_epoch": int(best["epoch"]) + 1,
        "epochs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
    }


def finished(folder):
    """The result of a training that ran to its end and was saved, or `None`."""
    file = Path(folder) / "result.json"
    return read_json(file) if file.exists() else None


def finish(folder, result):
    """Mark a training as done, once its model is saved; its state is of no more use."""
    write_json(Path(folder) / "result.json", result)
    for name in (_STATE, _BEST):
        (Path(folder) / name).unlink(missing_ok=True)


def schedule_config(schedule):
    """The schedule as a JSON-like dictionary."""
    return {**asdict(schedule), "milestones": list(schedule.milestones)}
