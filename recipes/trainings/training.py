"""Training by a schedule that continues where it was interrupted."""

import importlib
import importlib.util
from pathlib import Path

import keras

from letkd_keras.callbacks import ReseedEachEpoch, ShowProgress, StopOnNonFiniteLoss
from letkd_keras.data import steps_per_epoch
from letkd_keras.data.keras_cv_policies import mixes_labels
from letkd_keras.recipes.trainings import epochs_on_device
from letkd_keras.recipes.trainings.training_data import balanced_class_weights
from letkd_keras.recipes.trainings.training_state import (
    SaveState,
    is_over,
    load_state,
    read_state,
)

# An epoch in one call of a GPU may take less time than its state on disk.
_SECONDS = 30
_SET_LEARNING_RATE = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)


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
    remedies=None,
):
    """Compile and fit a model, continuing where an earlier call was interrupted.

    The model ends with the weights of the last epoch, as they were evaluated. Where the data have a
    validation set, it is evaluated after every epoch in place of the test set. The model then ends
    with the weights of the epoch that is best on it, and the test set is evaluated once, with these
    weights. What a callback makes of the weights at the end of the training does not count.

    Args:
        model: Model with logits as outputs, built and not compiled; trained in place.
        data: `Dataset`.
        schedule: `Schedule`.
        folder: Folder for `metrics.csv`, TensorBoard's logs and the state.
        seed: Seed of order and augmentation.
        augmentation: Options of the data's `training_batches`.
        with_rows: Whether batches come with the numbers of their images (`CRD`).
        callbacks: Names of further callbacks, `MODULE:CLASS`.
        class_weights: `"balanced"` for weights of the images that give every class the same sum of
            weights, or `None`.
        remedies: What to do where the loss diverges, see `StopOnNonFiniteLoss`.

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
    selects = data.has_validation
    compile_model(model, data, schedule, augmentation)
    if state["epochs"]:
        load_state(model, folder / state["last"]["name"])
    if not is_over(state, schedule.epochs):
        state = _fit(
            model,
            data,
            schedule,
            folder,
            state,
            seed=seed,
            augmentation=augmentation,
            with_rows=with_rows,
            callbacks=callbacks,
            class_weights=class_weights,
            remedies=remedies,
        )
        if callbacks and not selects:
            # A callback may have changed the weights at the end, after they were evaluated.
            load_state(model, folder / state["last"]["name"])
    result = summary(state["rows"])
    if selects:
        model.load_weights(folder / state["best"]["name"])
    if schedule.ema is not None:
        model.optimizer.finalize_variable_values(model.trainable_weights)
    if not selects:
        return result
    batches = evaluation_batches(data, augmentation, "test")
    accuracy = model.evaluate(batches, return_dict=True, verbose=0)["accuracy"]
    del result["accuracy_last"]
    validation = result.pop("accuracy_best")
    return {"accuracy_selected": 100 * accuracy, "accuracy_validation": validation, **result}


def _fit(
    model,
    data,
    schedule,
    folder,
    state,
    *,
    seed,
    augmentation,
    with_rows,
    callbacks,
    class_weights,
    remedies,
):
    """Fit a compiled model from the epoch of a state on; returns the state of the last epoch."""
    split = "validation" if data.has_validation else "test"
    batches = data.training_batches(
        schedule.batch_size,
        seed=seed,
        first_epoch=state["epochs"],
        epochs=schedule.epochs,
        **({"with_rows": True} if with_rows else {}),
        **augmentation,
    )
    evaluated = evaluation_batches(data, augmentation, split)
    on_device = class_weights is None and not callbacks and epochs_on_device.applies(model, batches)
    seconds = _SECONDS if on_device else 0
    save_state = SaveState(folder, state, data.has_validation, seconds)
    with ShowProgress(split) as shown:
        options = {
            "steps_per_epoch": steps_per_epoch(data.train_examples, schedule.batch_size),
            "initial_epoch": state["epochs"],
            "epochs": schedule.epochs,
            "callbacks": [
                ReseedEachEpoch(seed),
                StopOnNonFiniteLoss(remedies),
                # Only while images are evaluated: the state has both kinds of weights.
                *([] if schedule.ema is None else [keras.callbacks.SwapEMAWeights()]),
                *tensorboard(folder / "tensorboard"),
                save_state,
                shown,
                *(make_callback(name) for name in callbacks),
            ],
        }
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
    return save_state.state


def compile_model(model, data, schedule, augmentation, **options):
    """Compile a model for a training by a schedule.

    Args:
        model: Model with logits as outputs, built.
        data: `Dataset`.
        schedule: `Schedule`.
        augmentation: Options of the data's `training_batches`.
        **options: Further arguments of `compile`.
    """
    one_hot = mixes_labels(augmentation)
    loss = schedule.loss(one_hot=one_hot)
    accuracy = (
        keras.metrics.CategoricalAccuracy if one_hot else keras.metrics.SparseCategoricalAccuracy
    )
    steps = steps_per_epoch(data.train_examples, schedule.batch_size)
    # Only weighted metrics leave out images without a label.
    has_unlabelled = data.unlabelled_examples
    metrics = {"weighted_metrics" if has_unlabelled else "metrics": [accuracy(name="accuracy")]}
    model.compile(optimizer=schedule.make_optimizer(steps), loss=loss, **metrics, **options)
    # TensorFlow traces a step twice if the first trace makes variables.
    model.optimizer.build(model.trainable_variables)


def evaluation_batches(data, augmentation, split, part=None):
    """Batches to evaluate a model on that was trained with an augmentation.

    Args:
        data: `Dataset`.
        augmentation: Options of the data's `training_batches`.
        split: `"test"` or `"validation"`.
        part: See `ImageData.evaluation_batches`.

    Returns:
        The batches; labels are float32 [B, classes] where a policy of the augmentation mixes them.
    """
    batches = data.evaluation_batches(split=split, part=part)
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
