"""The workers that share the trainings of this process, if there are any.

Whoever has trainings shared, `shared_training.Chief` or `ray_workers.RayWorkers`, is an object with
two members:

- `devices`: number of devices that share each batch;
- `train(model, data, order, folder)`: trains a model by all workers, see
  `shared_training.Chief.train`.
"""

import contextlib
import contextvars

_current = contextvars.ContextVar("workers", default=None)


def current():
    """The workers that trainings are shared by, or `None` where this process trains alone."""
    return _current.get()


def devices():
    """Number of devices that share each batch: of all workers, 1 for a process alone."""
    workers = current()
    return 1 if workers is None else workers.devices


@contextlib.contextmanager
def by(workers):
    """A scope in which trainings are shared by workers; `None` for none."""
    token = _current.set(workers)
    try:
        yield workers
    finally:
        _current.reset(token)
