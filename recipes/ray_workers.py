"""Trainings by workers of Ray Train: `--engine ray --workers N`.

The recipe runs in the process that the user started. For each training, Ray starts a group of
workers, which are those of `tf.distribute.MultiWorkerMirroredStrategy`. If one is lost, Ray starts
the group again, and it continues after the last finished epoch.
"""

import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path

import keras

from letkd_keras.data import DataSpec
from letkd_keras.recipes import shared_training, training, workers
from letkd_keras.run_folder import differences

log = logging.getLogger("letkd_keras")

# So often Ray starts the workers of one training again.
_RESTARTS = 3
_MODEL = "model.keras"


class RayWorkers:
    """Workers of Ray Train, one for each GPU or, without GPUs, for each of so many CPU cores.

    Args:
        count: Number of workers.
        spec: `DataSpec` that each of them opens the data by.

    Attributes:
        devices: Number of devices that share each batch.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If the backend is not TensorFlow, this process is one of several workers
            already, or the cluster has too few CPUs or GPUs.
    """

    def __init__(self, count, spec):
        check(keras.backend.backend())
        self.devices, self.spec = count, spec
        import ray

        if not ray.is_initialized():
            # On the cluster that RAY_ADDRESS names, otherwise one of this machine.
            ray.init(logging_level=logging.WARNING)
        resources = ray.cluster_resources()
        self.use_gpu = resources.get("GPU", 0) > 0
        kind = "GPU" if self.use_gpu else "CPU"
        if resources.get(kind, 0) < count:
            raise ValueError(
                f"`workers` must be at most the {resources.get(kind, 0):g} {kind}s of the Ray "
                f"cluster. Received: workers={count}"
            )

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

        with tempfile.TemporaryDirectory() as scratch:
            model.save(Path(scratch) / _MODEL)
            content = ray.put((Path(scratch) / _MODEL).read_bytes())
        folder = folder.resolve()
        trainer = TensorflowTrainer(
            _work,
            train_loop_config={
                "model": content,
                "data": self.spec.config(),
                "expected": {"data": data.digest, **shared_training.code()},
                "floatx": keras.config.floatx(),
                "order": order,
                "folder": str(folder),
            },
            scaling_config=ScalingConfig(num_workers=self.devices, use_gpu=self.use_gpu),
            run_config=RunConfig(
                name="ray",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=_RESTARTS),
            ),
        )
        log.info("training by %d workers of Ray", self.devices)
        try:
            metrics = trainer.fit().metrics or {}
        except TrainingFailedError as error:
            raise ConnectionError(
                f"Workers of Ray were lost {_RESTARTS + 1} times ({_first_line(error)}). The same "
                "command continues after the last finished epoch"
            ) from error
        finally:
            shutil.rmtree(folder / "ray", ignore_errors=True)
        if "error" in metrics:
            kind, message = metrics["error"]
            raise {"FloatingPointError": FloatingPointError}.get(kind, ValueError)(message)
        if training.read_state(folder)["epochs"] < order["schedule"]["epochs"]:
            raise ValueError(
                "`out` must be a folder that all machines of the Ray cluster share. "
                f"Received: {folder}, where the first worker's files are missing"
            )


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
    if importlib.util.find_spec("ray") is None:
        raise ImportError("`engine` ray needs Ray: pip install letkd-keras[ray]")


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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

    group = workers.connect("tensorflow")
    data, own = None, {}
    try:
        data = DataSpec.from_config(config["data"]).open()
        differing = differences(
            config["expected"],
            {"data": data.digest, **shared_training.code()},
            names=("of the driver", "of the worker"),
        )
        if differing:
            own = {"error": f"other images or code: {'; '.join(differing)}"}
    except (ValueError, OSError, ImportError) as error:
        own = {"error": f"{type(error).__name__}: {error}"}
    if group is not None:
        shared_training.agree(group, own)
    elif own:
        raise ValueError(own["error"])
    order, folder = config["order"], Path(config["folder"])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / _MODEL
        file.write_bytes(ray.get(config["model"]))
        if group is None:
            shared_training.fit_alone(file, data, order, folder)
        else:
            shared_training.fit(group, file, data, order, folder if group.is_chief else None)
