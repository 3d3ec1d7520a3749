"""The GPUs of a process, which it trains on by itself where there are no other workers."""

from contextlib import nullcontext

import keras

from letkd_keras.recipes.trainings import sharing


def seen():
    """Number of GPUs that this process sees."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return len(tf.config.list_physical_devices("GPU"))
    import jax

    return sum(device.platform == "gpu" for device in jax.local_devices())


def used_together():
    """Number of GPUs that each batch is shared by: all of TensorFlow's; 1 on other backends."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return len(tf.config.list_logical_devices("GPU"))


def scope():
    """The scope in which models are made and trained: `MirroredStrategy` for several GPUs.

    Elsewhere the backend chooses the device, on JAX the first one. Trainings that several workers
    share have a scope of their own.
    """
    if keras.backend.backend() != "tensorflow" or sharing.current() is not None:
        return nullcontext()
    import tensorflow as tf

    if used_together() > 1:
        return tf.distribute.MirroredStrategy().scope()
    return tf.distribute.get_strategy().scope()
