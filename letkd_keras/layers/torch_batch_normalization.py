import math

import keras
from keras import ops


@keras.saving.register_keras_serializable("letkd_keras")
class TorchBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation whose running variance is the unbiased one.

    PyTorch normalises a training batch with the biased variance, as Keras does, but accumulates
    the *unbiased* variance (divided by n - 1, n the number of values per channel) for inference.
    Keras accumulates the biased one. With 8x8 maps and batches of 64 the two differ by 2e-4; on
    1x1 maps and small batches by much more. The published letKD results rest on PyTorch's.

    On TensorFlow, feature maps with the channels last go through its fused operation: one pass over
    the map for the eight of Keras' layer.

    Args:
        momentum: Share of the old running statistics that a step keeps, in Keras' sense (PyTorch's
            `momentum=0.1` is 0.9 here).
        epsilon: Added to the variance before the root.
        synchronized: Whether the statistics are those of all replicas together. The unbiased
            correction then counts the values of all replicas. `None` is yes where the layer is made
            in the scope of a strategy of several replicas: they then train as one device would.
        **kwargs: Everything else `keras.layers.BatchNormalization` takes.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, synchronized=None, **kwargs):
        if synchronized is None:
            synchronized = _replicas() > 1
        super().__init__(momentum=momentum, epsilon=epsilon, synchronized=synchronized, **kwargs)

    def call(self, inputs, training=None, mask=None):
        batch_statistics = bool(training and self.trainable)
        if mask is None and self._is_fusible(inputs, batch_statistics):
            return self._fused(inputs, batch_statistics)
        # A product, not a read: an eager read may alias the variable that the parent updates.
        kept = self.momentum * self.moving_variance
        outputs = super().call(inputs, training=training, mask=mask)
        if batch_statistics:
            # What the parent added is (1 - momentum) * biased variance; n / (n - 1) times the
            # biased variance is wanted, so 1 / (n - 1) of that share is missing.
            after = ops.convert_to_tensor(self.moving_variance)
            share = after - kept
            values = ops.cast(self._values_per_channel(inputs), after.dtype)
            self.moving_variance.assign(after + share / ops.maximum(values - 1.0, 1.0))
        return outputs

    def _is_fusible(self, inputs, batch_statistics):
        """Whether TensorFlow's fused operation computes this layer."""
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not (self.synchronized and batch_statistics)
            and not self.renorm
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
        )

    def _fused(self, inputs, batch_statistics):
        import tensorflow as tf

        gamma, beta, *running = (
            ops.cast(variable, "float32")
            for variable in (self.gamma, self.beta, self.moving_mean, self.moving_variance)
        )
        # Its variance of a batch is the unbiased one already. Not `tf.nn`'s wrapper, which knows
        # no epsilon below 1.001e-5.
        outputs, *batch = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma,
            offset=beta,
            mean=tf.zeros(0) if batch_statistics else running[0],
            variance=tf.zeros(0) if batch_statistics else running[1],
            epsilon=self.epsilon,
            is_training=batch_statistics,
        )[:3]
        if batch_statistics:
            for variable, old, new in zip(
                (self.moving_mean, self.moving_variance), running, batch, strict=True
            ):
                variable.assign(old * self.momentum + new * (1.0 - self.momentum))
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


def _replicas():
    """Number of replicas of the strategy in whose scope this is called."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
