"""A schedule, and training by it that continues where it was interrupted."""

import csv
import importlib
import importlib.util
import io
import math
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import numpy as np

from letkd_keras import memory_mapped, optimizers
from letkd_keras.callbacks import ReseedEachEpoch, ShowProgress, StopOnNonFiniteLoss
from letkd_keras.data import steps_per_epoch
from letkd_keras.data.keras_cv_policies import mixes_labels
from letkd_keras.files import atomic_path, checksum, write_text
from letkd_keras.recipes import results


@dataclass(frozen=True)
class Schedule:
    """An optimizer and its schedule; the defaults are those of the published results.

    Attributes:
        epochs: Number of epochs.
        learning_rate: Learning rate of the first epochs, after the warm-up.
        milestones: Completed epochs after which the learning rate is divided by 10.
        batch_size: Images in a step, over all devices.
        momentum: Nesterov momentum of SGD.
        weight_decay: Weight decay: of SGD coupled and of all trainable variables, of AdamW
            decoupled and without biases, scales and normalization.
        optimizer: `"sgd"` or `"adamw"`.
        schedule: `"steps"` for the milestones, `"cosine"` for a cosine decay to 0.
        warm_up_epochs: Epochs in which the learning rate grows linearly, of the schedule's.
        label_smoothing: Share of the labels that is spread over all classes.
        ema: Momentum of the moving average of the weights, or `None` for none. The averaged
            weights are evaluated and saved.
        clip_norm: Largest norm of the gradient of all variables, or `None`.
        mixed_precision: `"float16"`, `"bfloat16"` or `None`: type in which layers compute.
        kd_learning_rate_factor: Factor of the learning rate of the KD layers, of SGD.
    """

    epochs: int
    learning_rate: float
    milestones: tuple
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: str = "sgd"
    schedule: str = "steps"
    warm_up_epochs: int = 0
    label_smoothing: float = 0.0
    ema: float | None = None
    clip_norm: float | None = None
    mixed_precision: str | None = None
    kd_learning_rate_factor: float = 1.0

    def __post_init__(self):
        if self.kd_learning_rate_factor != 1 and self.optimizer != "sgd":
            raise ValueError(
                "`kd_learning_rate_factor` is for the optimizer sgd. "
                f"Received: optimizer={self.optimizer}"
            )
        if self.warm_up_epochs and self.warm_up_epochs >= self.epochs:
            raise ValueError(
                f"`warm_up_epochs` must be less than the {self.epochs} epochs. "
                f"Received: warm_up_epochs={self.warm_up_epochs}"
            )

    @classmethod
    def of(cls, settings, learning_rate, epochs, batch_size, **options):
        """The schedule of a data set's `Settings`, with milestones scaled to the epochs.

        Args:
            settings: `Settings`.
            learning_rate: Learning rate of the first epochs.
            epochs: Number of epochs.
            batch_size: Images in a step.
            **options: Other attributes.

        Returns:
            `Schedule`.
        """
        milestones = optimizers.scale_milestones(
            settings.milestones, epochs, settings.milestones_of or settings.epochs
        )
        options = {"weight_decay": settings.weight_decay, **options}
        return cls(epochs, learning_rate, tuple(milestones), batch_size, **options)

    def scaled_from(self, batch_size, warm_up_epochs=None):
        """The schedule for its batch size, where its learning rate is for another one.

        The linear rule of Goyal et al. 2017, "Accurate, Large Minibatch SGD", for SGD: with k times
        the batch size, k times the learning rate; epochs, milestones and weight decay stay. Their
        warm-up is 5 of 90 epochs, from the rate of the smaller batch. Here it starts near 0, and a
        shorter training has as large a share of it.

        Args:
            batch_size: Images in a step that the learning rate is for.
            warm_up_epochs: Warm-up epochs; `None` for those of the rule where k is more than 1.

        Returns:
            `Schedule`.

        Raises:
            ValueError: If the optimizer is not SGD.
        """
        if self.optimizer != "sgd":
            raise ValueError(
                "`scale_learning_rate` is a rule for the optimizer sgd. "
                f"Received: optimizer={self.optimizer}"
            )
        scale = self.batch_size / batch_size
        if warm_up_epochs is None:
            warm_up_epochs = self.warm_up_epochs
            if scale > 1 and self.epochs > 1:
                warm_up_epochs = max(warm_up_epochs, min(5, math.ceil(self.epochs / 18)))
        return replace(
            self, learning_rate=scale * self.learning_rate, warm_up_epochs=warm_up_epochs
        )

    def config(self):
        """The schedule as a JSON-like dictionary."""
        return {**asdict(self), "milestones": list(self.milestones)}

    @classmethod
    def from_config(cls, config):
        """The schedule of such a dictionary."""
        return cls(**{**config, "milestones": tuple(config["milestones"])})

    def learning_rates(self, steps):
        """The learning rate of each step, for epochs of so many steps."""
        if self.schedule == "cosine":
            decay = keras.optimizers.schedules.CosineDecay(self.learning_rate, self.epochs * steps)
        else:
            decay = optimizers.epoch_decay(self.learning_rate, self.milestones, steps)
        return WarmUp(decay, self.warm_up_epochs * steps) if self.warm_up_epochs else decay

    def make_optimizer(self, steps):
        """A new optimizer for epochs of so many steps."""
        rates, options = self.learning_rates(steps), {}
        if self.ema is not None:
            options = {"use_ema": True, "ema_momentum": self.ema}
        if self.clip_norm is not None:
            options["global_clipnorm"] = self.clip_norm
        if self.optimizer == "sgd":
            if self.kd_learning_rate_factor != 1:
                names = ("kd_penultimate", "kd_intermediate")
                options["learning_rate_factors"] = dict.fromkeys(
                    names, self.kd_learning_rate_factor
                )
            return optimizers.TorchSGD(
                rates,
                momentum=self.momentum,
                nesterov=True,
                weight_decay=self.weight_decay,
                **options,
            )
        optimizer = keras.optimizers.AdamW(rates, weight_decay=self.weight_decay, **options)
        optimizer.exclude_from_weight_decay(var_names=["bias", "beta", "gamma", "scale"])
        return optimizer

    def loss(self, one_hot):
        """The cross-entropy of logits.

        Args:
            one_hot: Whether labels are [B, classes]; otherwise integers [B].

        Returns:
            A `keras.losses.Loss`.
        """
        if one_hot:
            return keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=self.label_smoothing
            )
        if self.label_smoothing:
            return SmoothedCrossentropy(self.label_smoothing)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @contextmanager
    def precision(self):
        """The scope in which networks and distillers are made for a training of this precision."""
        before = keras.config.dtype_policy()
        if self.mixed_precision is not None:
            keras.config.set_dtype_policy(f"mixed_{self.mixed_precision}")
        try:
            yield
        finally:
            keras.config.set_dtype_policy(before)


@keras.saving.register_keras_serializable("letkd_keras")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose first steps have a rate that grows linearly to the schedule's.

    Args:
        schedule: `LearningRateSchedule`, or a number.
        steps: Number of steps until the rate is the schedule's.
    """

    def __init__(self, schedule, steps):
        super().__init__()
        self.schedule, self.steps = schedule, steps

    def __call__(self, step):
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        done = (keras.ops.cast(step, "float32") + 1.0) / self.steps
        return rate * keras.ops.minimum(done, 1.0)

    def get_config(self):
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "steps": self.steps,
        }

    @classmethod
    def from_config(cls, config):
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["steps"])


@keras.saving.register_keras_serializable("letkd_keras")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits with smoothed integer labels.

    Keras' `SparseCategoricalCrossentropy` has no label smoothing.

    Args:
        label_smoothing: Share of the labels that is spread over all classes.
        name: Name of the loss.
        **kwargs: Arguments of `keras.losses.Loss`.
    """

    def __init__(self, label_smoothing, name="smoothed_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        classes = keras.ops.shape(y_pred)[-1]
        labels = keras.ops.one_hot(keras.ops.cast(y_true, "int32"), classes, dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            labels, y_pred, from_logits=True, label_smoothing=self.label_smoothing
        )

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


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
            # HDF5 ends the process with SIGSEGV if the disk becomes full while it writes.
            memory_mapped.check_room(self.folder, self._most_bytes(), _ADVICE)
            self.model.save_weights(path)
        return {"name": name, "sha256": checksum(self.folder / name)}

    def _most_bytes(self):
        """More bytes than a file of the weights and of the optimizer's variables has."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        values = sum(int(np.prod(v.shape)) * (8 if "64" in v.dtype else 4) for v in variables)
        return values + (len(variables) << 13) + (1 << 16)  # and HDF5's groups


_STATE = "state.json"
_ADVICE = "Free some space and run the same command again."


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
    verbose=True,
):
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
        callbacks: Names of further callbacks, `MODULE:CLASS`.
        class_weights: `"balanced"` for weights of the images that give every class the same sum of
            weights, or `None`.
        verbose: Whether progress is shown.

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
    save_state = SaveState(folder, state, keeps_best=selects)
    first_epoch = state["epochs"]
    if first_epoch:
        load_state(model, folder / state["last"]["name"])
    if first_epoch < schedule.epochs:
        split = "validation" if selects else "test"
        with ShowProgress(split) as shown:
            model.fit(
                data.training_batches(
                    schedule.batch_size,
                    seed=seed,
                    first_epoch=first_epoch,
                    epochs=schedule.epochs,
                    **({"with_rows": True} if with_rows else {}),
                    **augmentation,
                ),
                validation_data=evaluation_batches(data, augmentation, split),
                shuffle=False,  # the batches are shuffled already
                steps_per_epoch=steps,
                initial_epoch=first_epoch,
                epochs=schedule.epochs,
                verbose=0,
                class_weight=None if class_weights is None else balanced_class_weights(data),
                callbacks=[
                    ReseedEachEpoch(seed),
                    StopOnNonFiniteLoss(),
                    # Only while images are evaluated: the state has both kinds of weights.
                    *([] if schedule.ema is None else [keras.callbacks.SwapEMAWeights()]),
                    *tensorboard(folder / "tensorboard"),
                    save_state,
                    *([shown] if verbose else []),
                    *(load_callback(name)() for name in callbacks),
                ],
            )
    result = summary(save_state.rows)
    if selects:
        model.load_weights(folder / save_state.best["name"])
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
    has_unlabelled = getattr(data, "unlabelled_examples", 0)
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


def load_callback(name):
    """The callback class of a name `MODULE:CLASS`.

    Raises:
        ValueError: If there is no such class, or it is not a `keras.callbacks.Callback`.
    """
    module, _, attribute = str(name).partition(":")
    expected = "`callback` must be MODULE:CLASS, the name of a keras.callbacks.Callback"
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{expected} ({error}). Received: callback={name}") from error
    if not (isinstance(found, type) and issubclass(found, keras.callbacks.Callback)):
        raise ValueError(f"{expected}. Received: callback={name}, which is another object")
    return found


def balanced_class_weights(data):
    """Weights of images by class with which every class counts the same.

    Args:
        data: `ImageData`, or `StreamedImages` of files.

    Returns:
        Dictionary of numbers by class, `images / (classes * images of the class)`. Their mean over
        the training images is 1.

    Raises:
        ValueError: If the labels are known only once all images have been read.
    """
    labels = training_labels(data)
    if labels is None:
        raise ValueError(
            "`class_weights` need labels that are known before the images are read. "
            f"Received: {data.name}, whose images are records"
        )
    counts = np.bincount(labels, minlength=data.num_classes)
    # A class without training images has no image to weight.
    weights = len(labels) / (data.num_classes * np.maximum(counts, 1))
    return {label: float(weight) for label, weight in enumerate(weights)}


def labelled_data(data, repeat=False):
    """The data without training images that have no label (`ImageData.labelled`).

    Args:
        data: `ImageData`, or `StreamedImages`, whose images all have one.
        repeat: Whether the others are repeated until there are as many as before.

    Returns:
        The data set.
    """
    return data.labelled(repeat) if hasattr(data, "labelled") else data


def training_labels(data):
    """Classes of the training images, integers [N], or `None` if they are not known in advance."""
    if hasattr(data, "y_train"):
        return np.asarray(data.y_train)
    files = getattr(data.train, "files", None)
    return None if files is None else np.asarray(files.labels)


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
    """Mark a training as finished, once its model is saved, and delete its state."""
    folder = Path(folder)
    results.write_checked_json(folder / "result.json", result)
    for file in (folder / _STATE, *folder.glob("*.weights.h5")):
        file.unlink(missing_ok=True)
