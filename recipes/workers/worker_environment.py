"""Who the workers are: what the environment of a process says, and the connection to the others.

The variable is `TF_CONFIG` on TensorFlow. On JAX they are those of `keras.distribution`,
`KERAS_DISTRIBUTION_...`.
"""

import json
import logging
import os

from letkd_keras.recipes.workers.jax_worker_group import JaxWorkerGroup
from letkd_keras.recipes.workers.tensorflow_worker_group import TensorFlowWorkerGroup

log = logging.getLogger(__name__)

_TF_CONFIG = (
    '`TF_CONFIG` must be JSON such as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_JAX_NAMES = tuple(
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)


def connect(backend):
    """Connect to the workers that the environment names, and wait for them.

    It has to be called before the backend computes anything.

    Args:
        backend: Name of Keras' backend.

    Returns:
        `WorkerGroup`, or `None` if there are no others.

    Raises:
        ValueError: If the environment is malformed, or for another backend.
    """
    config = os.environ.get("TF_CONFIG", "")
    tensorflow = task_of(config) if config.strip() else None
    jax = process_of(os.environ)
    for found, name, needed in (
        (tensorflow, "TF_CONFIG", "tensorflow"),
        (jax, _JAX_NAMES[1], "jax"),
    ):
        if found is not None and found[0] > 1 and backend != needed:
            raise ValueError(
                f"`{name}` names workers for KERAS_BACKEND={needed}. "
                f"Received: KERAS_BACKEND={backend}"
            )
    count, index = (jax if backend == "jax" else tensorflow) or (1, 0)
    if count == 1:
        return None
    log.info("worker %d of %d: waiting for the others", index + 1, count)
    kinds = {"tensorflow": TensorFlowWorkerGroup, "jax": JaxWorkerGroup}
    workers = kinds[backend](count, index)
    log.info("worker %d of %d: connected, %d devices in all", index + 1, count, workers.devices)
    return workers


def task_of(config):
    """The number of workers and the own number of a `TF_CONFIG`.

    Args:
        config: Text of the variable.

    Returns:
        `(count, index)`.

    Raises:
        ValueError: If it is malformed, or has other tasks than a chief and workers.
    """
    try:
        parsed = json.loads(config)
    except ValueError as error:
        raise ValueError(f"{_TF_CONFIG} ({error}). Received: TF_CONFIG={config!r}") from None
    if not isinstance(parsed, dict):
        raise _malformed("it is no dictionary", config)
    cluster, task = parsed.get("cluster", {}), parsed.get("task", {})
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise _malformed("cluster and task are dictionaries", config)
    if not cluster:
        return 1, 0
    others = sorted(set(cluster) - {"chief", "worker"})
    if others:
        raise _malformed(f"tasks are chief and worker, not {others[0]}", config)
    for name, addresses in cluster.items():
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise _malformed(f"{name} is a list of host:port", config)
    chiefs, workers = (cluster.get(name, []) for name in ("chief", "worker"))
    if len(chiefs) > 1:
        raise _malformed("there is one chief", config)
    if len({*chiefs, *workers}) < len(chiefs) + len(workers):
        raise _malformed("two workers have the same address", config)
    kind, index = task.get("type"), task.get("index")
    if kind not in cluster:
        raise _malformed("the type of the task is one of the cluster", config)
    if type(index) is not int or not 0 <= index < len(cluster[kind]):
        raise _malformed(f"the index of the task is from 0 to {len(cluster[kind]) - 1}", config)
    return len(chiefs) + len(workers), index + (len(chiefs) if kind == "worker" else 0)


def _is_address(address):
    host, _, port = str(address).rpartition(":")
    return isinstance(address, str) and bool(host) and port.isdecimal() and 0 < int(port) < 2**16


def _malformed(reason, config):
    return ValueError(f"{_TF_CONFIG}: {reason}. Received: TF_CONFIG={config}")


def process_of(environment):
    """The number of processes and the own number, of the variables that Keras reads for JAX.

    Args:
        environment: Dictionary of the variables.

    Returns:
        `(count, index)`, or `None` if none of them is set.

    Raises:
        ValueError: If one is missing or malformed.
    """
    given = {name: environment[name] for name in _JAX_NAMES if environment.get(name)}
    if not given:
        return None
    missing = [name for name in _JAX_NAMES if name not in given]
    if missing:
        raise ValueError(
            f"`{missing[0]}` must be set with {' and '.join(given)}. Received: nothing"
        )
    addresses, count, index = given.values()
    for name in _JAX_NAMES[1:]:
        if not given[name].isdecimal():
            raise ValueError(f"`{name}` must be an integer. Received: {name}={given[name]}")
    count, index = int(count), int(index)
    if not index < count:
        raise ValueError(
            f"`{_JAX_NAMES[2]}` must be from 0 to {count - 1}. Received: {_JAX_NAMES[2]}={index}"
        )
    addresses = addresses.split(",")
    if not all(map(_is_address, addresses)) or len(addresses) not in (1, count):
        raise ValueError(
            f"`{_JAX_NAMES[0]}` must be the host:port of the first process, or those of all "
            f"{count}, separated by commas. Received: {_JAX_NAMES[0]}={given[_JAX_NAMES[0]]}"
        )
    return count, index
