"""Trainings by workers of Ray Train: `--engine ray --workers N`.

The recipe runs in the process that the user started. For each training, Ray starts a group of
workers, which are those of `tf.distribute.MultiWorkerMirroredStrategy`. If one is lost, Ray starts
the group again, and it continues after the last finished epoch.
"""

import contextlib
import logging
import os
import shutil
import threading
from pathlib import Path

import keras

from letkd_keras.callbacks import ShowProgress
from letkd_keras.commands.own_modules import import_modules
from letkd_keras.commands.ray_cluster import environment_of_workers, import_ray, running_ray
from letkd_keras.commands.run_folder import differences
from letkd_keras.data import DataSpec
from letkd_keras.errors import error_reason
from letkd_keras.functional.loading import model_bytes
from letkd_keras.recipes.trainings import sharing
from letkd_keras.recipes.trainings.training_data import few_for_students
from letkd_keras.recipes.trainings.training_state import is_over, read_state
from letkd_keras.recipes.workers import fit_on_workers, shared_training, worker_environment

log = logging.getLogger(__name__)

# So often Ray starts the workers of one training again.
_RESTARTS = 3


class RayWorkers:
    """Workers of Ray Train, each with one GPU or, without GPUs, one CPU core.

    Args:
        count: Number of workers.
        experiment: `Experiment` whose data each of them opens.
        resources: What each worker may use: `(cpus, gpus)`.

    Attributes:
        devices: Number of devices that share each batch.
    """

    def __init__(self, count, experiment, resources):
        self.devices, self.experiment, self.resources = count, experiment, resources

    @classmethod
    @contextlib.contextmanager
    def running(cls, count, experiment):
        """A scope in which Ray runs and trainings are shared by its workers.

        Args:
            count: Number of workers.
            experiment: `Experiment`.

        Raises:
            ImportError: If Ray is not installed.
            ValueError: If there are fewer GPUs than workers.
        """
        with (
            running_ray(count) as resources,
            sharing.by(cls(count, experiment, resources)) as group,
        ):
            yield group

    def train(self, model, data, order, folder):
        """Train a model by all workers; see `shared_training.Chief.train`.

        Raises:
            FloatingPointError: If the loss is not finite.
            ValueError: If a worker has other images or other code, or does not see the folder.
            ConnectionError: If workers were lost again and again.
        """
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.tensorflow import TensorflowTrainer

        folder = folder.resolve()
        cpus, gpus = self.resources
        trainer = TensorflowTrainer(
            _work,
            train_loop_config={
                "model": ray.put(model_bytes(model)),
                "data": self.experiment.spec.config(),
                "student_examples": self.experiment.student_examples,
                "code": shared_training.code(),
                "imports": self.experiment.imports,
                "floatx": keras.config.floatx(),
                "order": order,
                "folder": str(folder),
            },
            scaling_config=ScalingConfig(
                num_workers=self.devices,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": min(1, cpus), **({"GPU": gpus} if gpus else {})},
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=_RESTARTS),
                worker_runtime_env={"env_vars": environment_of_workers("tensorflow")},
            ),
        )
        log.info("training by %d workers of Ray", self.devices)
        try:
            with _epochs_shown(folder, data, order):
                metrics = trainer.fit().metrics or {}
        except TrainingFailedError as error:
            raise ConnectionError(
                f"Workers of Ray were lost {_RESTARTS + 1} times ({error_reason(error)}). The same "
                "command continues after the last finished epoch"
            ) from error
        finally:
            shutil.rmtree(folder / "ray", ignore_errors=True)
        if "error" in metrics:
            kind, message = metrics["error"]
            raise (FloatingPointError if kind == "FloatingPointError" else ValueError)(message)
        if not is_over(read_state(folder), order["schedule"]["epochs"]):
            raise ValueError(
                "`out` must be a folder that all machines of the Ray cluster share. "
                f"Received: {folder}, where the first worker's files are missing"
            )


@contextlib.contextmanager
def _epochs_shown(folder, data, order):
    """A scope in which the epochs are shown that the first worker finishes."""
    epochs, ended = order["schedule"]["epochs"], threading.Event()
    before = read_state(folder)["epochs"]

    def watch():
        done, last = before, False
        with ShowProgress("validation" if data.has_validation else "test") as shown:
            shown.set_params({"epochs": epochs, "steps": 1})
            shown.on_train_begin()
            shown.on_epoch_begin(done)
            while not last:
                last = ended.wait(1)
                with contextlib.suppress(ValueError, OSError):  # a file that is being replaced
                    rows = read_state(folder)["rows"]
                    for row in rows[done:]:
                        shown.on_epoch_end(done, row)
                        done += 1
                        if done < epochs:
                            shown.on_epoch_begin(done)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def check(backend):
    """Refuse `--engine ray` where it cannot be used.

    Args:
        backend: Name of Keras' backend.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If the backend is not TensorFlow, or `TF_CONFIG` is set.
    """
    if backend != "tensorflow":
        raise ValueError(
            "`engine` ray trains on TensorFlow only; on JAX, start the processes by yourself "
            f"(docs/several_machines.md). Received: engine=ray with KERAS_BACKEND={backend}"
        )
    if os.environ.get("TF_CONFIG"):
        raise ValueError(
            "`engine` must not be ray where TF_CONFIG is set: Ray sets it for its workers. "
            "Received: engine=ray"
        )
    import_ray()


def _work(config):
    """What each worker of Ray does for a training."""
    import ray.train

    # Ray sets it for old programs. It is no matter of this one, which uses Keras 3.
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    logging.getLogger("letkd_keras").setLevel(logging.INFO)
    keras.config.set_floatx(config["floatx"])
    try:
        _train(config)
    except (FloatingPointError, ValueError) as error:
        # Another attempt would end the same way. All workers see the error.
        ray.train.report({"error": [type(error).__name__, str(error)]})


def _train(config):
    import ray

    group = worker_environment.connect("tensorflow")
    data, own = None, {}
    order, folder = config["order"], Path(config["folder"])
    try:
        differing = differences(
            config["code"], shared_training.code(), names=("of the driver", "of the worker")
        )
        if differing:
            own = {"error": f"other code: {'; '.join(differing)}"}
        else:
            import_modules(config["imports"])
            data = _data(config, order)
    except (ValueError, OSError, ImportError) as error:
        own = {"error": f"{type(error).__name__}: {error}"}
    if group is not None:
        shared_training.agree(group, own)
    elif own:
        raise ValueError(own["error"])
    content = ray.get(config["model"])
    if group is None:
        fit_on_workers.fit_alone(content, data, order, folder)
    else:
        fit_on_workers.fit(group, content, data, order, folder if group.is_chief else None)


def _data(config, order):
    spec = DataSpec.from_config(config["data"])
    data = spec.open()
    few = few_for_students(data, config["student_examples"], spec.seed)
    return shared_training.same_data((data, few), order)
