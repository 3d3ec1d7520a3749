import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("letkd_keras")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation whose running variance is the unbiased one.

    PyTorch normalises a training batch with the biased variance, as Keras does, but accumulates
    the *unbiased* variance (divided by n - 1, n the number of values per channel) for inference.
    Keras accumulates the biased one. With 8x8 maps and batches of 64 the two differ by 2e-4; on
    1x1 maps and small batches by much more. The published letKD results rest on PyTorch's.

    Args:
        momentum: Share of the old running statistics that a step keeps, in Keras' sense (PyTorch's
            `momentum=0.1` is 0.9 here).
        epsilon: Added to the variance before the root.
        synchronized: Whether the statistics are those of all replicas together. The unbiased
            correction then counts the values of all replicas.
        **kwargs: Everything else `keras.layers.BatchNormalization` takes.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, **kwargs):
        super().__init__(momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        # A product, not a read: an eager read may alias the variable that the parent updates.
        kept = self.momentum * self.moving_variance
        outputs = super().call(inputs, training=training, mask=mask)
        if training and self.trainable:
            # What the parent added is (1 - momentum) * biased variance; n / (n - 1) times the
            # biased variance is wanted, so 1 / (n - 1) of that share is missing.
            after = ops.convert_to_tensor(self.moving_variance)
            share = after - kept
            values = ops.cast(self._values_per_channel(inputs), after.dtype)
            self.moving_variance.assign(after + share / ops.maximum(values - 1.0, 1.0))
        return outputs

    def _values_per_channel(self, inputs):
        shape = ops.shape(inputs)
        channel_axis = self.axis % len(shape)
        values = math.prod(size for axis, size in enumerate(shape) if axis != channel_axis)
        if self.synchronized and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            context = tf.distribute.get_replica_context()
            if context is not None:
                values = values * context.num_replicas_in_sync
        return values
