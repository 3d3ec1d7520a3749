"""The group of workers of JAX."""

import atexit
import contextlib
import os
import signal
import sys
import threading

import numpy as np

from letkd_keras.recipes.workers.worker_group import WorkerGroup


def _restore_sigterm():
    """Make SIGTERM end this process again.

    `jax.distributed` takes the signal for a notice of preemption, and the process goes on. Python
    still knows the earlier handler, but the system does not.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


class JaxWorkerGroup(WorkerGroup):
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
        if isinstance(error, ValueError):
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
