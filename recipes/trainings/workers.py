"""Several workers that train one network together: who they are, and what they send each other.

Each worker is a process, on this machine or on another one. They are told of each other by the
environment: `TF_CONFIG` on TensorFlow, `KERAS_DISTRIBUTION_...` on JAX. The first one is the chief.
"""

import atexit
import contextlib
import contextvars
import json
import logging
import os
import signal
import sys
import threading

import numpy as np

log = logging.getLogger("letkd_keras")

# Pairs of bytes in a collective sum: 16 MiB as float32.
_CHUNK = 2**22
_TF_CONFIG = (
    '`TF_CONFIG` must be JSON such as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_JAX_NAMES = tuple(
    f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")
)
_current = contextvars.ContextVar("workers", default=None)


def current():
    """The workers that trainings are shared by, or `None` where this process trains alone."""
    return _current.get()


def devices():
    """Number of devices that share each batch: of all workers, 1 for a process alone."""
    workers = current()
    return 1 if workers is None else workers.devices


@contextlib.contextmanager
def sharing(workers):
    """A scope in which trainings are shared by workers; `None` for none."""
    token = _current.set(workers)
    try:
        yield workers
    finally:
        _current.reset(token)


class Workers:
    """The group of all workers, as one of them sees it.

    Attributes:
        count: Number of workers.
        index: Number of this one; 0 is the chief.
        devices: Devices of all workers.
        lost: Whether a worker was lost, so that nothing can be sent any more.
    """

    def __init__(self, count, index, devices):
        self.count, self.index, self.devices = count, index, devices
        self.lost = False

    @property
    def is_chief(self):
        """Whether this worker writes files and prints."""
        return self.index == 0

    def sum(self, values):
        """The sum of the arrays of all workers, which all of them call with the same shape.

        Args:
            values: Array of floats.

        Returns:
            Array of the same shape.
        """
        raise NotImplementedError

    def gather(self, message):
        """Exchange messages of any length; all workers call it.

        Args:
            message: Bytes.

        Returns:
            List of the messages of all workers, in their order.
        """
        lengths = np.zeros(self.count)
        lengths[self.index] = len(message)
        lengths = [int(length) for length in self.sum(lengths)]
        # Two bytes in a number: a float32 has room for 24 bits.
        pairs = [(length + 1) // 2 for length in lengths]
        own = np.frombuffer(message + b"\0" * (len(message) % 2), "<u2")
        begin, total = sum(pairs[: self.index]), sum(pairs)
        received = np.empty(total, "<u2")
        for start in range(0, total, _CHUNK):
            chunk = np.zeros(min(_CHUNK, total - start), "float32")
            first, last = max(begin, start), min(begin + len(own), start + len(chunk))
            if first < last:
                chunk[first - start : last - start] = own[first - begin : last - begin]
            received[start : start + len(chunk)] = self.sum(chunk)
        ends = np.cumsum(pairs)
        return [
            received[end - size : end].tobytes()[:length]
            for end, size, length in zip(ends, pairs, lengths, strict=True)
        ]

    def broadcast(self, message=b""):
        """Send a message of the chief to all workers, which all call it.

        Args:
            message: Bytes; that of the chief counts.

        Returns:
            The chief's bytes.
        """
        return self.gather(message if self.is_chief else b"")[0]

    @contextlib.contextmanager
    def watched(self):
        """A scope in which the loss of another worker is a `ConnectionError`.

        Raises:
            ConnectionError: If a worker was lost.
        """
        try:
            yield
        except self.errors_of_lost_workers() as error:
            if not self._is_loss(error):
                raise
            self.lost = True
            raise ConnectionError(
                "Another worker ended or cannot be reached. Start all workers again by the same "
                "command: they continue after the last finished epoch"
            ) from error

    def leave(self):
        """Have this process end without the others, after an error."""

    # What a backend has of its own

    def errors_of_lost_workers(self):
        """Classes of the errors that collectives raise when a worker is lost."""
        raise NotImplementedError

    def _is_loss(self, error):
        return True

    def scope(self):
        """A scope in which models are made, loaded and changed by all workers together."""
        raise NotImplementedError

    def fit_scope(self):
        """A scope in which `fit` is called."""
        raise NotImplementedError

    def alone(self):
        """A scope in which this worker computes by itself."""
        raise NotImplementedError

    def distributed(self, batches, size, class_weights):
        """What `fit` takes for this worker's part of every batch.

        Args:
            batches: Batches of (images, labels).
            size: Images of each.
            class_weights: Weights of the images by class, a dictionary, or `None`.

        Returns:
            `(x, options)`, for `fit(x, **options)`.
        """
        raise NotImplementedError


class TensorFlowWorkers(Workers):
    """Workers of `tf.distribute.MultiWorkerMirroredStrategy`, as in `TF_CONFIG`."""

    def __init__(self, count, index):
        import tensorflow as tf

        try:
            # TensorFlow waits for all workers here.
            self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise ValueError(
                "`TF_CONFIG` must be set before TensorFlow computes anything in the process "
                f"({error})"
            ) from error
        super().__init__(count, index, self.strategy.num_replicas_in_sync)
        self.own_devices = self.devices // count

    def sum(self, values):
        import tensorflow as tf

        def of_device(context):
            first = context.replica_id_in_sync_group % self.own_devices == 0
            return tf.constant(values if first else np.zeros_like(values))

        with self.watched(), self.scope():
            parts = self.strategy.experimental_distribute_values_from_function(of_device)
            return self.strategy.reduce("SUM", parts, axis=None).numpy()

    def errors_of_lost_workers(self):
        from tensorflow import errors

        return (
            *(errors.UnavailableError, errors.AbortedError, errors.CancelledError),
            *(errors.DeadlineExceededError, errors.FailedPreconditionError, errors.InternalError),
        )

    def scope(self):
        return self.strategy.scope()

    def fit_scope(self):
        return contextlib.nullcontext()

    def alone(self):
        return contextlib.nullcontext()

    def distributed(self, batches, size, class_weights):
        import tensorflow as tf

        if class_weights is not None:
            # Keras cannot add them to a data set that is distributed already.
            weights = tf.constant([class_weights[label] for label in sorted(class_weights)])

            def with_weights(x, y):
                return x, y, tf.gather(weights, y if y.dtype.is_integer else tf.argmax(y, -1))

            batches = batches.map(with_weights)
        # One element of the data set for each device of this worker.
        if self.own_devices > 1:
            batches = batches.rebatch(size // self.own_devices)
        return self.strategy.distribute_datasets_from_function(lambda context: batches), {}


def _restore_sigterm():
    """Make SIGTERM end this process again.

    `jax.distributed` takes the signal for a notice of preemption, and the process goes on. Python
    still knows the earlier handler, but the system does not.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


class JaxWorkers(Workers):
    """Processes of `jax.distributed`, which `keras.distribution` shares the batches among."""

    def __init__(self, count, index):
        import jax
        import keras

        if "JAX_CPU_COLLECTIVES_IMPLEMENTATION" not in os.environ:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.utils.set_random_seed(0)  # Keras would agree on a seed by a collective
        keras.distribution.initialize()
        _restore_sigterm()
        super().__init__(count, index, jax.device_count())
        self.distribution = keras.distribution.DataParallel(auto_shard_dataset=False)

    def sum(self, values):
        from jax.experimental import multihost_utils

        with self.watched(), self.alone():
            return np.asarray(multihost_utils.process_allgather(values)).sum(axis=0)

    def leave(self):
        def end():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(2)

        # Otherwise JAX waits at the end of the process for all others, and they for this one.
        atexit.register(end)

    def errors_of_lost_workers(self):
        import jax

        return (jax.errors.JaxRuntimeError, ValueError)

    def _is_loss(self, error):
        # JAX raises a plain ValueError, too, where the connection of two CPUs is closed.
        if type(error) is ValueError:
            return "Gloo" in str(error)
        return not str(error).startswith(("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"))

    def scope(self):
        return self.distribution.scope()

    def fit_scope(self):
        return self.distribution.scope()

    @contextlib.contextmanager
    def alone(self):
        from keras import distribution

        before = distribution.distribution()
        distribution.set_distribution(None)
        try:
            yield
        finally:
            distribution.set_distribution(before)

    def distributed(self, batches, size, class_weights):
        return batches, {"class_weight": class_weights}


# === Who the workers are ===


def connect(backend):
    """Connect to the workers that the environment names, and wait for them.

    It has to be called before the backend computes anything.

    Args:
        backend: Name of Keras' backend.

    Returns:
        `Workers`, or `None` if there are no others.

    Raises:
        ValueError: If the environment is malformed, or for another backend.
    """
    config = os.environ.get("TF_CONFIG")
    tensorflow = None if not (config or "").strip() else task_of(config)
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
    kinds = {"tensorflow": TensorFlowWorkers, "jax": JaxWorkers}
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
