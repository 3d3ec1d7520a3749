"""A pass of the teacher over the images, shared by actors of Ray Data.

The actors read batches of images by their numbers and send back a gatherer's summary of each batch.
This process adds these in the order of the batches. So the sums run in the same order as in a
single process.
"""

import contextlib
import logging
import math
import pickle

import keras
import numpy as np

from letkd_keras.commands.ray_cluster import environment_of_workers, import_ray, running_ray
from letkd_keras.functional.loading import model_bytes, model_of_bytes
from letkd_keras.prototypes.teacher_features import TeacherFeatures

# Batches that an actor does in one piece, at most: what is done again if it is lost.
_LARGEST_PIECE = 8
# Pieces for each actor, at least, so that all end at about the same time.
_PIECES = 4


class RayEngine:
    """Runs passes of the teacher over the images on actors of Ray Data.

    An actor that is lost is replaced by Ray, and the piece of work that it had is done again.

    Args:
        workers: Number of actors. Each has one GPU if there are any, else its share of the
            processors.

    Raises:
        ImportError: If Ray is not installed.
    """

    def __init__(self, workers):
        import_ray()
        self.workers = workers
        self._scope = contextlib.ExitStack()
        self._resources = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Stop Ray if it was started here."""
        self._resources = None
        self._scope.close()

    def check(self, images):
        """Refuse images that the actors could not read.

        Args:
            images: `LabelledImages`.

        Raises:
            ValueError: If they cannot be read by the numbers of their batches.
        """
        images.check_numbered()

    def run(self, features, images, gatherer):
        """Give the features of all images to a gatherer, batch by batch, in their order.

        Arguments, errors and what it yields are those of `LocalEngine.run`.
        """
        count = images.num_batches()
        if self._resources is None:
            self._resources = self._scope.enter_context(running_ray(self.workers))
        parts = self._parts(_job(features, images, gatherer), count)
        for first, summary, labels in images.follow(parts):
            gatherer.add(summary)
            yield first + len(labels)

    def _parts(self, job, count):
        """What the actors make of each batch: `(summary, labels)`."""
        import ray
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        pieces = _pieces(count, self.workers)
        cpus, gpus = self._resources
        job = ray.put(job)
        with ray.data.DataContext.current(context):
            results = ray.data.from_items(pieces, override_num_blocks=len(pieces)).map_batches(
                _TeacherActor,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(
                    size=self.workers, max_tasks_in_flight_per_actor=2
                ),
                num_cpus=cpus,
                num_gpus=gpus,
                fn_constructor_args=([job],),
                runtime_env={"env_vars": _environment(cpus)},
            )
            for block in results.iter_batches(batch_size=None, prefetch_batches=0):
                for part in block["part"]:
                    result = pickle.loads(part)
                    if isinstance(result, Exception):
                        raise result
                    yield result


def _pieces(count, workers):
    """Ranges of batches as dictionaries of `start` and `stop`, for actors to do one by one."""
    size = min(_LARGEST_PIECE, math.ceil(count / (_PIECES * workers)))
    return [{"start": start, "stop": min(start + size, count)} for start in range(0, count, size)]


class _TeacherActor:
    """A teacher in a process of its own.

    Args:
        job: List of one reference to the arguments of `_job`, put together.
    """

    def __init__(self, job):
        job = import_ray().get(job[0])
        for name, value in job["config"].items():
            getattr(keras.config, f"set_{name}")(value)
        keras.saving.get_custom_objects().update(pickle.loads(job["classes"]))
        teacher = model_of_bytes(job["teacher"], "teacher")
        self.features = TeacherFeatures(teacher, **job["features"])
        self.images, self.summarize = job["images"], job["summarize"]

    def __call__(self, pieces):
        """Do pieces of work: ranges of batches, from `start` to before `stop`."""
        for start, stop in zip(pieces["start"], pieces["stop"], strict=True):
            try:
                for first, images, labels in self.images.numbered_batches(start, stop):
                    yield _row((self.summarize(first, labels, self.features(images)), labels))
            except (ValueError, OSError) as error:  # for the process that has asked
                yield _row(error)


def _row(part):
    # As bytes, since the arrays of a part have different lengths.
    array = np.empty(1, dtype=object)
    array[0] = pickle.dumps(part, protocol=5)
    return {"part": array}


def _job(features, images, gatherer):
    """What an actor needs, all of which can be sent to other machines."""
    from ray import cloudpickle

    # Keras finds classes by their modules, except those of a user's program.
    classes = {
        name: custom
        for name, custom in keras.saving.get_custom_objects().items()
        if custom.__module__ == "__main__"
    }
    return {
        "config": {
            "floatx": keras.config.floatx(),
            "dtype_policy": keras.config.dtype_policy().name,
            "image_data_format": keras.config.image_data_format(),
        },
        "teacher": model_bytes(features.teacher),
        "classes": cloudpickle.dumps(classes),
        "features": {
            "layers": features.layers,
            "pool_size": features.pool_sizes,
            "image_shape": features.image_shape,
        },
        "images": images,
        "summarize": gatherer.summarize,
    }


def _environment(cpus):
    threads = str(max(1, int(cpus)))
    return {
        **environment_of_workers(keras.backend.backend()),
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
    }
