import keras
import numpy as np


class BatchInference:
    """A model's outputs for a batch of images, in inference mode, on every replica there is.

    Under a `tf.distribute` strategy of several replicas the batch is dealt to them in equal parts
    and their outputs are put together in the order of the images. (`predict_on_batch` would have
    every replica compute the whole batch.)

    Args:
        model: A functional `keras.Model` with a list of outputs, made of the teacher's layers.
        teacher: The teacher. The strategy that counts is the one under which it or `model` was
            built or, if they were built under none, the one running at the call.
    """

    def __init__(self, model, teacher):
        self.model = model
        self.teacher = teacher
        self._on_replicas = {}

    def __call__(self, images):
        """Images [B, ...] to a list of NumPy arrays [B, ...]."""
        if keras.backend.backend() == "tensorflow":
            strategies = self.model.distribute_strategy, self.teacher.distribute_strategy
            strategy = max(strategies, key=lambda strategy: strategy.num_replicas_in_sync)
            if strategy.num_replicas_in_sync > 1:
                if strategy not in self._on_replicas:
                    self._on_replicas[strategy] = _on_replicas(self.model, strategy)
                return self._on_replicas[strategy](images)
        outputs = self.model.predict_on_batch(images)
        return outputs if isinstance(outputs, list) else [outputs]


def _on_replicas(model, strategy):
    import tensorflow as tf

    # Those of this process: each worker of several goes through the data that it is given.
    replicas = len(strategy.extended.worker_devices)

    @tf.function(reduce_retracing=True)
    def run(images):
        return strategy.run(
            lambda part: keras.tree.flatten(model(part, training=False)), args=(images,)
        )

    def gather(output, size):
        parts = strategy.experimental_local_results(output)
        return np.concatenate([part.numpy() for part in parts])[:size]

    def on_replicas(images):
        images = keras.ops.convert_to_numpy(images)
        # Equal parts, none of them empty: the last image again, as often as it takes.
        padding = np.repeat(images[-1:], -len(images) % replicas, axis=0)
        parts = np.split(np.concatenate([images, padding]), replicas)
        distributed = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group % replicas])
        )
        return [gather(output, len(images)) for output in run(distributed)]

    return on_replicas
