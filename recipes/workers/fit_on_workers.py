"""A training on one of the workers: they fit copies of a model together."""

import tempfile
from pathlib import Path

import keras
import numpy as np

from letkd_keras.callbacks import ReseedEachEpoch, ShowProgress, StopOnNonFiniteLoss
from letkd_keras.data import steps_per_epoch
from letkd_keras.data.keras_cv_policies import mixes_labels
from letkd_keras.distillers import Supervised
from letkd_keras.functional.graph import layers_inside
from letkd_keras.functional.loading import model_of_bytes
from letkd_keras.recipes.trainings import training
from letkd_keras.recipes.trainings.schedule import Schedule
from letkd_keras.recipes.trainings.training_data import balanced_class_weights
from letkd_keras.recipes.trainings.training_state import SaveState, load_state, read_state


def fit_alone(content, data, order, folder):
    """Fit a model without other workers; see `fit`."""
    options = {name: order[name] for name in order if name not in ("schedule", "digest")}
    schedule = Schedule.from_config(order["schedule"])
    with schedule.precision():
        training.train(model_of_bytes(content, "model"), data, schedule, folder, **options)


def fit(group, content, data, order, folder):
    """Fit a model together with the other workers, which all call it.

    The chief's folder says after which epoch it starts, and gets the states.

    Args:
        group: `WorkerGroup`.
        content: The model, as `model_bytes` gives it.
        data: The data; each worker reads its part of the batches.
        order: Options of the training, see `shared_training.Chief.train`.
        folder: Folder of the training, on the chief; `None` on the others.

    Raises:
        FloatingPointError: If the loss is not finite.
        ValueError: If the state is damaged.
        ConnectionError: If a worker was lost.
    """
    with tempfile.TemporaryDirectory() as scratch, group.watched():
        state = group.broadcast_json(_state(folder) if group.is_chief else None)
        if "error" in state:
            raise ValueError(state["error"])
        weights = Path(scratch) / "state.weights.h5"
        if state["epochs"]:
            last = (folder / state["last"]["name"]).read_bytes() if group.is_chief else b""
            weights.write_bytes(group.broadcast(last))
        _fit(group, content, weights, data, order, folder or Path(scratch), state)


def _state(folder):
    try:
        return read_state(folder)
    except ValueError as error:
        return {"error": str(error)}


def _fit(group, content, weights, data, order, folder, state):
    schedule = Schedule.from_config(order["schedule"])
    augmentation, first_epoch = order["augmentation"], state["epochs"]
    # TensorFlow's workers are not compiled by XLA, which knows nothing of their collectives.
    compiled = {} if keras.backend.backend() == "jax" else {"jit_compile": False}
    # JAX wants the same values from all processes, those that are then replaced too.
    keras.utils.set_random_seed(order["seed"])
    with schedule.precision(), group.scope():
        model = _model_of(content)
        training.compile_model(model, data, schedule, augmentation, **compiled)
        if first_epoch:
            load_state(model, weights)
    batches, options = group.distributed(
        data.training_batches(
            schedule.batch_size,
            seed=order["seed"],
            first_epoch=first_epoch,
            epochs=schedule.epochs,
            part=(group.index, group.count),
            **augmentation,
        ),
        schedule.batch_size // group.count,
        None if order["class_weights"] is None else balanced_class_weights(data),
    )
    split = "validation" if data.has_validation else "test"
    network = getattr(model, "student", model)
    evaluation = EvaluateParts(group, network, data, schedule, augmentation, split)
    save_state = SaveState(folder, state, keeps_best=data.has_validation)
    with ShowProgress(split) as shown, group.fit_scope():
        model.fit(
            batches,
            shuffle=False,
            steps_per_epoch=steps_per_epoch(data.train_examples, schedule.batch_size),
            initial_epoch=first_epoch,
            epochs=schedule.epochs,
            verbose=0,
            callbacks=[
                InScope(ReseedEachEpoch(order["seed"]), group),
                StopOnNonFiniteLoss(order.get("remedies")),
                evaluation,
                *(training.tensorboard(folder / "tensorboard") if group.is_chief else []),
                # Others write to a folder that is removed: TensorFlow's workers read the metrics
                # in the state together.
                InScope(save_state, group),
                *([shown] if group.is_chief else []),
                *(training.make_callback(name) for name in order["callbacks"]),
            ],
            **options,
        )


def _model_of(content):
    """The model of bytes, as workers train it together."""
    model = model_of_bytes(content, "model")
    if not hasattr(model, "student"):
        model = Supervised(model.inputs, model.outputs, name=model.name)
    if keras.backend.backend() == "tensorflow":
        for layer in layers_inside(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # statistics of the whole batch, as JAX's are
    return model


class EvaluateParts(keras.callbacks.Callback):
    """Evaluates the network after every epoch, each worker on its part of the images.

    A copy of the network is evaluated on one device of the worker. Keras' own evaluation would need
    batches of the same size on all workers, and there is no such size for every number of images.

    Args:
        group: `WorkerGroup`.
        network: Functional model that the workers train.
        data: The data.
        schedule: `Schedule`.
        augmentation: Options of the data's `training_batches`.
        split: `"test"` or `"validation"`.
    """

    def __init__(self, group, network, data, schedule, augmentation, split):
        super().__init__()
        self.group, self.network = group, network
        part = (group.index, group.count)
        self.batches = training.evaluation_batches(data, augmentation, split, part)
        self.swap = None if schedule.ema is None else keras.callbacks.SwapEMAWeights()
        self.copy = keras.models.clone_model(network)
        loss = schedule.loss(one_hot=mixes_labels(augmentation))
        self.copy.compile(loss=loss, metrics=["accuracy", _Images(name="images")])

    def on_epoch_end(self, epoch, logs=None):
        with self.group.scope():
            if self.swap is not None:
                self.swap.set_model(self.model)
                self.swap.on_test_begin()
            weights = self.network.get_weights()
            if self.swap is not None:
                self.swap.on_test_end()
        with self.group.alone():
            self.copy.set_weights(weights)
            own = dict.fromkeys(("loss", "accuracy", "images"), 0.0)
            if len(self.batches):
                own = self.copy.evaluate(self.batches, return_dict=True, verbose=0)
        images = own["images"]
        sums = self.group.sum(np.array([images * own["loss"], images * own["accuracy"], images]))
        logs["val_loss"], logs["val_accuracy"] = (float(value) for value in sums[:2] / sums[2])


class _Images(keras.metrics.Sum):
    """Number of images."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(keras.ops.ones(keras.ops.shape(y_pred)[:1]))


class InScope(keras.callbacks.Callback):
    """A callback that changes variables or saves them, in the scope of the workers' models.

    Args:
        callback: Callback of beginnings and ends of epochs, and of the end of the training.
        group: `WorkerGroup`.
    """

    def __init__(self, callback, group):
        super().__init__()
        self.callback, self.group = callback, group

    def set_model(self, model):
        super().set_model(model)
        self.callback.set_model(model)

    def on_epoch_begin(self, epoch, logs=None):
        with self.group.scope():
            self.callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        with self.group.scope():
            self.callback.on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        self.callback.on_train_end(logs)
