"""Where the teacher's passes over the images run: in this process, or on actors of Ray."""

from letkd_keras.prototypes.ray_engine import RayEngine
from letkd_keras.ranges import positive_integer


def make_engine(engine, workers):
    """The engine of a name.

    Args:
        engine: `"local"` or `"ray"`.
        workers: Number of actors of `"ray"`; `None` with `"local"`.

    Returns:
        `LocalEngine` or `RayEngine`.

    Raises:
        ImportError: If Ray is needed and not installed.
        ValueError: If the engine is unknown, or the workers do not go with it.
    """
    if engine == "ray":
        return RayEngine(positive_integer.check(workers, "workers"))
    if engine != "local":
        raise ValueError(f'`engine` must be "local" or "ray". Received: engine={engine!r}')
    if workers is not None:
        raise ValueError(f'`workers` needs engine="ray". Received: workers={workers!r}')
    return LocalEngine()


class LocalEngine:
    """Runs a pass of the teacher over the images in this process."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Nothing to stop."""

    def check(self, images):
        """Nothing to refuse: every `LabelledImages` can be iterated over."""

    def run(self, features, images, gatherer):
        """Give the features of all images to a gatherer, batch by batch, in their order.

        Args:
            features: `TeacherFeatures`.
            images: `LabelledImages`.
            gatherer: A gatherer of `letkd_keras.prototypes.passes`.

        Yields:
            The number of images that are done, after each batch.
        """
        for first, batch, labels in images.batches():
            gatherer.add(gatherer.summarize(first, labels, features(batch)))
            yield first + len(labels)
