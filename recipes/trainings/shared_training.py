"""Trainings that several workers share: the chief runs the recipe, the others train with it.

For every training the chief sends the whole model (`.keras`, a distiller with its teacher), the
weights of the last finished epoch and the options. All workers load them and fit together, each on
its part of every batch. The chief alone writes the state after each epoch, and goes on as if it had
trained by itself. So nothing but the images has to be on the other machines.
"""

import hashlib
import importlib.util
import json
import logging
import tempfile
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

from letkd_keras.callbacks import ReseedEachEpoch, ShowProgress, StopOnNonFiniteLoss
from letkd_keras.data import steps_per_epoch
from letkd_keras.data.keras_cv_policies import mixes_labels
from letkd_keras.distillers import Supervised
from letkd_keras.files import checksum
from letkd_keras.functional import load_model
from letkd_keras.functional.graph import layers_inside
from letkd_keras.recipes.trainings import training, worker_environment, workers
from letkd_keras.recipes.trainings.schedule import Schedule
from letkd_keras.recipes.trainings.training_data import balanced_class_weights, labelled_data
from letkd_keras.run_folder import differences

log = logging.getLogger("letkd_keras")

_MODEL, _WEIGHTS = "model.keras", "state.weights.h5"


def train(model, data, schedule, folder, **options):
    """`training.train`, by all workers where there are several.

    Arguments, result and errors are those of `training.train`. `model` ends with the same weights
    as there.

    Raises:
        ConnectionError: If a worker was lost.
    """
    group = workers.current()
    if group is not None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if training.read_state(folder)["epochs"] < schedule.epochs:
            order = {
                "schedule": schedule.config(),
                "digest": data.digest,
                **options,
                "callbacks": [*options["callbacks"]],
            }
            group.train(model, data, order, folder)
    # What is left: the last or the selected weights, and the test images.
    return training.train(model, data, schedule, folder, **options)


# === The chief and the others ===


def run_on_workers(backend, make_experiment, command, open_keys=()):
    """Run a recipe: as a whole on the chief, on other workers only its trainings.

    Args:
        backend: Name of Keras' backend.
        make_experiment: Function that returns the `Experiment` of the command line.
        command: Function of this experiment, what the recipe does with it.
        open_keys: Keys of the experiment's configuration that may differ between workers.

    Returns:
        What the command returns; `None` on other workers than the chief.

    Raises:
        ValueError: If the workers differ, or the chief ended by an error.
        ConnectionError: If a worker was lost.
    """
    group = worker_environment.connect(backend)
    if group is None:
        return command(make_experiment())
    try:
        with workers.sharing(Chief(group)):
            try:
                experiment = make_experiment()
            except (ValueError, OSError, ImportError) as error:
                agree(group, {"error": str(error)})
            agree(group, {"experiment": experiment.config(), **code()}, open_keys)
            if not group.is_chief:
                return _serve(group, (experiment.data, experiment.student_data))
            return _lead(group, command, experiment)
    except BaseException:
        group.leave()
        raise


class Chief:
    """The workers as the chief has its trainings done by them.

    Args:
        group: `Workers`.
    """

    def __init__(self, group):
        self.group = group
        self.devices = group.devices

    def train(self, model, data, order, folder):
        """Train a model by all workers; the state of the last epoch is in the folder then.

        Args:
            model: Model, built, of which the workers train copies.
            data: The data.
            order: Options of the training, JSON types; `schedule` is its configuration.
            folder: Folder of the training.

        Raises:
            FloatingPointError: If the loss is not finite.
            ConnectionError: If a worker was lost, now or before.
        """
        if self.group.lost:
            raise ConnectionError("A worker was lost. Start all workers again")
        _send(self.group, {"order": order})
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / _MODEL
            model.save(file)
            self.group.broadcast(file.read_bytes())
            fit(self.group, file, data, order, folder)


def _lead(group, command, experiment):
    """Run the command on the chief, and end the others."""
    try:
        result = command(experiment)
    except BaseException as error:
        if not group.lost and not isinstance(error, KeyboardInterrupt | SystemExit):
            _send(group, {"error": f"{type(error).__name__}: {error}"})
        raise
    _send(group, {"end": True})
    return result


def _send(group, message):
    return json.loads(group.broadcast(json.dumps(message).encode()))


def _serve(group, data_sets):
    """Take part in the trainings of the chief until it ends."""
    while True:
        message = _send(group, None)
        if "end" in message:
            log.info("worker %d of %d: the chief has finished", group.index + 1, group.count)
            return
        if "error" in message:
            raise ValueError(f"The chief ended by an error: {message['error']}")
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / _MODEL
            file.write_bytes(group.broadcast())
            try:
                fit(group, file, same_data(data_sets, message["order"]), message["order"], None)
            except FloatingPointError as error:  # all workers see it; the chief decides
                log.warning("%s", error)


def same_data(data_sets, order):
    """The data that the chief trains on: those of this worker with the same digest.

    Args:
        data_sets: The data, and those of the students.
        order: See `Chief.train`.

    Returns:
        The data set.

    Raises:
        ValueError: If none of them has the digest.
    """
    for data in data_sets:
        # With or without training images that have no label.
        labelled = (labelled_data(data), labelled_data(data, repeat=True))
        for candidate in (data, *labelled):
            if candidate.digest == order["digest"]:
                return candidate
    raise ValueError("The images of the workers differ")


def agree(group, own, open_keys=()):
    """Compare what the workers were started with.

    Args:
        group: `Workers`.
        own: What this one was started with, JSON types; `error` if it failed.
        open_keys: Keys of `experiment` that may differ.

    Raises:
        ValueError: If they differ, or one of them failed; on all workers.
    """
    messages = [json.loads(message) for message in group.gather(json.dumps(own).encode())]
    for index, message in enumerate(messages):
        if "error" in message:
            raise ValueError(f"Worker {index + 1} of {group.count}: {message['error']}")
    ignored = [f"experiment.{key}" for key in open_keys]
    for index, message in enumerate(messages):
        differing = differences(
            messages[0], message, ignored, ("of the chief", f"of worker {index + 1}")
        )
        if differing:
            raise ValueError(
                "All workers must have the same settings, images and versions. "
                f"Received: {'; '.join(differing)}"
            )


def code():
    """Versions, and a digest of this package's code."""
    digest = hashlib.sha256()
    for package in ("letkd_keras", "letkd_keras.recipes", "letkd_keras.export"):
        (folder,) = importlib.util.find_spec(package).submodule_search_locations
        for file in sorted(Path(folder).rglob("*.py")):
            name = file.relative_to(folder).as_posix()
            # Two parts of the package are elsewhere in the repository.
            if package != "letkd_keras" or not name.startswith(("recipes/", "export/")):
                digest.update(f"{package} {name} {checksum(file)}\n".encode())
    names = ("keras", keras.backend.backend(), "numpy")
    versions = {name: metadata.version(name) for name in names}
    return {"versions": versions, "code": digest.hexdigest()}


# === A training on one of the workers ===


def fit_alone(file, data, order, folder):
    """Fit a model without other workers; see `fit`."""
    options = {name: order[name] for name in order if name not in ("schedule", "digest")}
    schedule = Schedule.from_config(order["schedule"])
    with schedule.precision():
        training.train(load_model(file), data, schedule, folder, **options)


def fit(group, file, data, order, folder):
    """Fit a model together with the other workers, which all call it.

    The chief's folder says after which epoch it starts, and gets the states.

    Args:
        group: `Workers`.
        file: `.keras` file of the model.
        data: The data; each worker reads its part of the batches.
        order: See `Chief.train`.
        folder: Folder of the training, on the chief; `None` on the others.

    Raises:
        FloatingPointError: If the loss is not finite.
        ValueError: If the state is damaged.
        ConnectionError: If a worker was lost.
    """
    with tempfile.TemporaryDirectory() as scratch, group.watched():
        state = _send(group, _state(folder) if group.is_chief else None)
        if "error" in state:
            raise ValueError(state["error"])
        weights = Path(scratch) / _WEIGHTS
        if state["epochs"]:
            last = (folder / state["last"]["name"]).read_bytes() if group.is_chief else b""
            weights.write_bytes(group.broadcast(last))
        _fit(group, file, weights, data, order, folder or Path(scratch), state)


def _state(folder):
    try:
        return training.read_state(folder)
    except ValueError as error:
        return {"error": str(error)}


def _fit(group, file, weights, data, order, folder, state):
    schedule = Schedule.from_config(order["schedule"])
    augmentation, first_epoch = order["augmentation"], state["epochs"]
    steps = steps_per_epoch(data.train_examples, schedule.batch_size)
    # TensorFlow's workers are not compiled by XLA, which knows nothing of their collectives.
    options = {} if keras.backend.backend() == "jax" else {"jit_compile": False}
    # JAX wants the same values from all processes, those that are then replaced too.
    keras.utils.set_random_seed(order["seed"])
    with schedule.precision(), group.scope():
        model = load_model(file)
        if not hasattr(model, "student"):
            model = Supervised(model.inputs, model.outputs, name=model.name)
        if keras.backend.backend() == "tensorflow":
            for layer in layers_inside(model):
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.synchronized = True  # statistics of the whole batch, as JAX's are
        training.compile_model(model, data, schedule, augmentation, **options)
        if first_epoch:
            training.load_state(model, weights)
    class_weights = None
    if order["class_weights"] is not None:
        class_weights = balanced_class_weights(data)
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
        class_weights,
    )
    split = "validation" if data.has_validation else "test"
    network = getattr(model, "student", model)
    evaluation = EvaluateParts(group, network, data, schedule, augmentation, split)
    save_state = training.SaveState(folder, state, keeps_best=data.has_validation)
    with ShowProgress(split) as shown, group.fit_scope():
        model.fit(
            batches,
            shuffle=False,
            steps_per_epoch=steps,
            initial_epoch=first_epoch,
            epochs=schedule.epochs,
            verbose=0,
            callbacks=[
                InScope(ReseedEachEpoch(order["seed"]), group),
                StopOnNonFiniteLoss(),
                evaluation,
                *(training.tensorboard(folder / "tensorboard") if group.is_chief else []),
                # Others write to a folder that is removed: TensorFlow's workers read the metrics
                # in the state together.
                InScope(save_state, group),
                *([shown] if group.is_chief and order["verbose"] else []),
                *(training.load_callback(name)() for name in order["callbacks"]),
            ],
            **options,
        )


class EvaluateParts(keras.callbacks.Callback):
    """Evaluates the network after every epoch, each worker on its part of the images.

    A copy of the network is evaluated on one device of the worker. Keras' own evaluation would need
    batches of the same size on all workers, and there is no such size for every number of images.

    Args:
        group: `Workers`.
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
        callback: Callback of beginnings and ends of epochs.
        group: `Workers`.
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
