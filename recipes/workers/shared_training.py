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
from pathlib import Path

from letkd_keras.commands.run_folder import differences
from letkd_keras.data import steps_per_epoch
from letkd_keras.files import checksum
from letkd_keras.functional import limit_normalization_momentum
from letkd_keras.functional.loading import model_bytes
from letkd_keras.recipes.trainings import sharing, training
from letkd_keras.recipes.trainings.training_state import is_over, read_state
from letkd_keras.recipes.workers import worker_environment
from letkd_keras.recipes.workers.fit_on_workers import fit
from letkd_keras.versions import versions

log = logging.getLogger(__name__)


def train(model, data, schedule, folder, **options):
    """`training.train`, by all workers where there are several.

    Arguments, result and errors are those of `training.train`. `model` ends with the same weights
    as there. The momentum of its batch normalizations is limited (`limit_normalization_momentum`).

    Raises:
        ConnectionError: If a worker was lost.
    """
    steps = steps_per_epoch(data.train_examples, schedule.batch_size)
    limit_normalization_momentum(model, schedule.epochs * steps)
    group = sharing.current()
    if group is not None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not is_over(read_state(folder), schedule.epochs):
            order = {
                "schedule": schedule.config(),
                "digest": data.digest,
                **options,
                "callbacks": [*options["callbacks"]],
            }
            group.train(model, data, order, folder)
    # What is left: the last or the selected weights, and the test images.
    return training.train(model, data, schedule, folder, **options)


def lead_or_serve(backend, make_experiment, command, open_keys=()):
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
        with sharing.by(Chief(group)):
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
        group: `WorkerGroup`.
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
        self.group.broadcast_json({"order": order})
        content = self.group.broadcast(model_bytes(model))
        fit(self.group, content, data, order, folder)


def _lead(group, command, experiment):
    """Run the command on the chief, and end the others."""
    try:
        result = command(experiment)
    except BaseException as error:
        if not group.lost and not isinstance(error, KeyboardInterrupt | SystemExit):
            group.broadcast_json({"error": f"{type(error).__name__}: {error}"})
        raise
    group.broadcast_json({"end": True})
    return result


def _serve(group, data_sets):
    """Take part in the trainings of the chief until it ends."""
    while True:
        message = group.broadcast_json()
        if "end" in message:
            log.info("worker %d of %d: the chief has finished", group.index + 1, group.count)
            return
        if "error" in message:
            raise ValueError(f"The chief ended by an error: {message['error']}")
        content = group.broadcast()
        try:
            fit(group, content, same_data(data_sets, message["order"]), message["order"], None)
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
        labelled = (data.labelled(), data.labelled(repeat=True))
        for candidate in (data, *labelled):
            if candidate.digest == order["digest"]:
                return candidate
    raise ValueError("The images of the workers differ")


def agree(group, own, open_keys=()):
    """Compare what the workers were started with.

    Args:
        group: `WorkerGroup`.
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
    return {"versions": versions(), "code": digest.hexdigest()}
