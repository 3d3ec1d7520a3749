"""How Ray is started: quietly, on this machine unless a cluster is named."""

import contextlib
import logging
import os
import sys
from pathlib import Path

from letkd_keras.commands.command_line import tensorflow_environment
from letkd_keras.commands.log_file import stderr_to_log
from letkd_keras.errors import error_reason

# Read by Ray when it is imported or started. A user's own settings are kept.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Actors without a GPU see those that the environment shows them: none are hidden or announced.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray then listens on the loopback address only, as it does on Windows and macOS.
_ONLY_THIS_MACHINE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

# Ray waits 30 seconds for its processes. On a busy machine they take longer at the first start.
_STARTS = 3


def import_ray():
    """The module `ray`, imported quietly.

    Raises:
        ImportError: If Ray is not installed; the message names the extra.
    """
    quiet = _ENVIRONMENT | ({} if os.environ.get("RAY_ADDRESS") else _ONLY_THIS_MACHINE)
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ImportError('engine="ray" needs Ray: pip install "letkd-keras[ray]"') from error
    return ray


@contextlib.contextmanager
def running_ray(workers):
    """A scope in which Ray runs.

    A Ray that this process uses already, or the cluster that `RAY_ADDRESS` names, is used and left
    running. Otherwise Ray is started on this machine, without a network and without a dashboard,
    and stopped at the end.

    Args:
        workers: Number of workers that must be able to run at the same time.

    Yields:
        `(cpus, gpus)`: what each worker may use. A worker has one GPU if there are any.

    Raises:
        ConnectionError: If Ray does not start, or the cluster does not answer.
        ImportError: If Ray is not installed.
        ValueError: If there are GPUs, but fewer than workers.
    """
    ray = import_ray()
    started = not ray.is_initialized()
    if started:
        _start(ray)
    try:
        yield _share(ray.cluster_resources(), workers)
    finally:
        if started:
            ray.shutdown()


def environment_of_workers(backend):
    """Environment of the workers: modules are found there as in this process.

    Args:
        backend: Name of Keras' backend.

    Returns:
        Dictionary of variables.
    """
    return {
        "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path),
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **tensorflow_environment(),
    }


def _start(ray):
    options = {"log_to_driver": False, "logging_level": logging.ERROR}
    tries = 1
    if not os.environ.get("RAY_ADDRESS"):
        options |= {"include_dashboard": False}
        tries = _STARTS
    for number in range(1, tries + 1):
        try:
            with stderr_to_log():
                ray.init(**options)
            return
        except Exception as error:  # Ray raises errors of many types here, some of them plain
            ray.shutdown()
            if number == tries:
                reason = error_reason(error)
                raise ConnectionError(f"Ray could not be started: {reason}") from error


def _share(resources, workers):
    gpus = int(resources.get("GPU", 0))
    if 0 < gpus < workers:
        raise ValueError(
            f"`workers` must be at most the number of GPUs, {gpus}. Received: workers={workers}"
        )
    cpus = resources.get("CPU", 1) / workers
    # Ray deals whole processors, or parts of one.
    return (int(cpus) if cpus >= 1 else cpus), (1 if gpus else 0)
