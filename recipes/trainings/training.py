"""Training by a schedule that continues where it was interrupted."""

import importlib
import importlib.util
import time
from pathlib import Path

import keras
import numpy as np

from letkd_keras import memory_mapped
from letkd_keras.callbacks import ReseedEachEpoch, ShowProgress, StopOnNonFiniteLoss
from letkd_keras.data import steps_per_epoch
from letkd_keras.data.keras_cv_policies import mixes_labels
from letkd_keras.files import atomic_path, checksum, write_csv
from letkd_keras.recipes.trainings import epochs_on_device, results
from letkd_keras.recipes.trainings.training_data import balanced_class_weights

_STATE = "state.json"
# An epoch in one call of a GPU may take less time than its state on disk.
_SECONDS = 30
_ADVICE = "Free some space and run the same command again."
_SET_LEARNING_RATE = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)


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
            results.write_checked_json(self.folder / _STATE, {**self.state, "stopped": True})

    def _save_state(self):
        self.saved = time.monotonic()
        epochs = len(self.rows)
        last = self._save_weights(f"state-{epochs}.weights.h5")
        self.state = {"epochs": epochs, "last": last, "best": self.best, "rows": self.rows}
        results.write_checked_json(self.folder / _STATE, self.state)
        write_csv(self.folder / "metrics.csv", list(self.rows[0]), self.rows)
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
    state = results.read_checked_json(folder / _STATE)
    for file in (state["last"], state["best"]):
        if file is not None:
            results.check_file(folder / file["name"], file["sha256"])
    return state


def is_over(state, epochs):
    """Whether a training has had all its epochs, or was ended by a callback.

    Args:
        state: What `read_state` returned.
        epochs: Epochs of its schedule.
    """
    return state["epochs"] >= epochs or state.get("stopped", False)


def train(
    model,
    data,
    schedule,
    folder,
    *,
    seed,
    augmentation,
    with_rows=False,
    callbacks=(),
    class_weights=None,
):
    """Compile and fit a model, continuing where an earlier call was interrupted.

    The model ends with the weights of the last epoch, as they were evaluated. Where the data have a
    validation set, it is evaluated after every epoch in place of the test set. The model then ends
    with the weights of the epoch that is best on it, and the test set is evaluated once, with these
    weights. What a callback makes of the weights at the end of the training does not count.

    Args:
        model: Model with logits as outputs, built and not compiled; trained in place.
        data: `ImageData`, or an object with its methods.
        schedule: `Schedule`.
        folder: Folder for `metrics.csv`, TensorBoard's logs and the state.
        seed: Seed of order and augmentation.
        augmentation: Options of the data's `training_batches`.
        with_rows: Whether batches come with the numbers of their images (`CRD`).
        callbacks: Names of further callbacks, `MODULE:CLASS`.
        class_weights: `"balanced"` for weights of the images that give every class the same sum of
            weights, or `None`.

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
    selects = data.has_validation
    compile_model(model, data, schedule, augmentation)
    rows, best, first_epoch = state["rows"], state["best"], state["epochs"]
    if first_epoch:
        load_state(model, folder / state["last"]["name"])
    if not is_over(state, schedule.epochs):
        split = "validation" if selects else "test"
        batches = data.training_batches(
            schedule.batch_size,
            seed=seed,
            first_epoch=first_epoch,
            epochs=schedule.epochs,
            **({"with_rows": True} if with_rows else {}),
            **augmentation,
        )
        evaluated = evaluation_batches(data, augmentation, split)
        options = {
            "steps_per_epoch": steps,
            "initial_epoch": first_epoch,
            "epochs": schedule.epochs,
        }
        on_device = (
            class_weights is None and not callbacks and epochs_on_device.applies(model, batches)
        )
        save_state = SaveState(folder, state, selects, seconds=_SECONDS if on_device else 0)
        with ShowProgress(split) as shown:
            options["callbacks"] = [
                ReseedEachEpoch(seed),
                StopOnNonFiniteLoss(),
                # Only while images are evaluated: the state has both kinds of weights.
                *([] if schedule.ema is None else [keras.callbacks.SwapEMAWeights()]),
                *tensorboard(folder / "tensorboard"),
                save_state,
                shown,
                *(make_callback(name) for name in callbacks),
            ]
            if on_device:
                epochs_on_device.fit(model, batches, evaluated, **options)
            else:
                model.fit(
                    batches,
                    validation_data=evaluated,
                    shuffle=False,  # the batches are shuffled already
                    verbose=0,
                    class_weight=None if class_weights is None else balanced_class_weights(data),
                    **options,
                )
        rows, best = save_state.rows, save_state.best
        if callbacks and not selects:
            # A callback may have changed the weights at the end, after they were evaluated.
            load_state(model, folder / save_state.state["last"]["name"])
    result = summary(rows)
    if selects:
        model.load_weights(folder / best["name"])
    if schedule.ema is not None:
        model.optimizer.finalize_variable_values(model.trainable_weights)
    if not selects:
        return result
    batches = evaluation_batches(data, augmentation, "test")
    accuracy = model.evaluate(batches, return_dict=True, verbose=0)["accuracy"]
    del result["accuracy_last"]
    validation = result.pop("accuracy_best")
    return {"accuracy_selected": 100 * accuracy, "accuracy_validation": validation, **result}


def compile_model(model, data, schedule, augmentation, **options):
    """Compile a model for a training by a schedule.

    Args:
        model: Model with logits as outputs, built.
        data: `ImageData`, or an object with its methods.
        schedule: `Schedule`.
        augmentation: Options of the data's `training_batches`.
        **options: Further arguments of `compile`.
    """
    loss = schedule.loss(one_hot=mixes_labels(augmentation))
    steps = steps_per_epoch(data.train_examples, schedule.batch_size)
    # Only weighted metrics leave out images without a label.
    has_unlabelled = data.unlabelled_examples
    metrics = {"weighted_metrics" if has_unlabelled else "metrics": ["accuracy"]}
    model.compile(optimizer=schedule.make_optimizer(steps), loss=loss, **metrics, **options)


def load_state(model, file):
    """Load the weights of an epoch that `SaveState` wrote, the optimizer's too."""
    model.optimizer.build(model.trainable_variables)
    model.load_weights(file)


def evaluation_batches(data, augmentation, split, part=None):
    """Batches to evaluate a model on that was trained with an augmentation.

    Args:
        data: `ImageData`, or an object with its methods.
        augmentation: Options of the data's `training_batches`.
        split: `"test"` or `"validation"`.
        part: See `ImageData.evaluation_batches`.

    Returns:
        The batches; labels are float32 [B, classes] where a policy of the augmentation mixes them.
    """
    batches = data.evaluation_batches(256, split, **({} if part is None else {"part": part}))
    if not mixes_labels(augmentation):
        return batches
    return batches.map(lambda x, y: (x, keras.ops.one_hot(y, data.num_classes, dtype="float32")))


def make_callback(name):
    """The callback of a name `MODULE:CLASS`, made without arguments.

    Raises:
        ValueError: If there is no such class, it is not a `keras.callbacks.Callback`, sets the
            learning rate, or cannot be made without arguments.
    """
    module, _, attribute = str(name).partition(":")
    expected = "`callback` must be MODULE:CLASS, the name of a keras.callbacks.Callback"
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{expected} ({error}). Received: callback={name}") from error
    if not (isinstance(found, type) and issubclass(found, keras.callbacks.Callback)):
        raise ValueError(f"{expected}. Received: callback={name}, which is another object")
    if issubclass(found, _SET_LEARNING_RATE):
        raise ValueError(
            "`callback` must not set the learning rate, which the schedule of the recipe sets: use "
            f"`schedule`. Received: callback={name}"
        )
    try:
        return found()
    except TypeError as error:
        raise ValueError(
            f"{expected} that is made without arguments. Received: callback={name} ({error})"
        ) from error


def tensorboard(folder):
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
    """Mark a training as finished, once its model is saved, and delete its state.

    Deleted too is the error of another start, which may have found the training at work.
    """
    folder = Path(folder)
    results.write_checked_json(folder / "result.json", result)
    for file in (folder / _STATE, folder / "error.txt", *folder.glob("*.weights.h5")):
        file.unlink(missing_ok=True)
