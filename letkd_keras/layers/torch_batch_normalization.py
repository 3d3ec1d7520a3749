import math

import keras
from keras import ops

from letkd_keras.ranges import fraction, positive_number


@keras.saving.register_keras_serializable("letkd_keras")
class TorchBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with PyTorch's running variance.

    PyTorch normalizes a training batch with the biased variance, as Keras does. For inference it
    accumulates the *unbiased* variance, which is divided by n - 1, where n is the number of values
    per channel, without those that a mask leaves out. Keras accumulates the biased variance. With
    8x8 maps and batches of 64 the two differ by 2e-4, with 1x1 maps and small batches by much more.
    The published results of letKD were computed with PyTorch.

    On TensorFlow, channels-last feature maps are normalized by a fused operation, which passes over
    the map once; Keras' layer makes eight passes.

    Args:
        momentum: Share of the old running statistics that a step keeps, in Keras' sense, at least 0
            and less than 1. PyTorch's `momentum=0.1` is 0.9 here.
        epsilon: Added to the variance before the square root, more than 0.
        synchronized: Whether the statistics are those of all replicas together. The unbiased
            variance then counts the values of all replicas. `None` means yes if the layer is
            created in the scope of a strategy with several replicas, which then train like one
            device.
        **kwargs: Other arguments of `keras.layers.BatchNormalization`.

    Raises:
        ValueError: If `momentum` or `epsilon` is out of its range.
    """

    def __init__(self, momentum=0.9, epsilon=1e-5, synchronized=None, **kwargs):
        if synchronized is None:
            synchronized = _replicas() > 1
        momentum = fraction.check(momentum, "momentum")
        epsilon = positive_number.check(epsilon, "epsilon")
        super().__init__(momentum=momentum, epsilon=epsilon, synchronized=synchronized, **kwargs)

    def call(self, inputs, training=None, mask=None):
        batch_statistics = bool(training and self.trainable)
        if mask is None and self._is_fusible(inputs, batch_statistics):
            return self._fused(inputs, batch_statistics)
        # Not a mere read, which may be an alias of the variable that the parent class updates.
        kept = self.momentum * self.moving_variance
        outputs = super().call(inputs, training=training, mask=mask)
        if batch_statistics:
            # The parent class added (1 - momentum) * biased variance. The unbiased variance is
            # n / (n - 1) times the biased one, so 1 / (n - 1) of what was added is missing.
            after = ops.convert_to_tensor(self.moving_variance)
            added = after - kept
            values = ops.cast(self._values_per_channel(inputs, mask), after.dtype)
            self.moving_variance.assign(after + added / ops.maximum(values - 1.0, 1.0))
        return outputs

    def update_statistics(self, mean, variance, values):
        """Update the running statistics as a training step with these batch statistics does.

        Args:
            mean: Mean of each channel of the batch.
            variance: Biased variance of each channel of the batch.
            values: Number of values of each channel.
        """
        values = ops.cast(values, variance.dtype)
        unbiased = variance * (values / ops.maximum(values - 1.0, 1.0))
        for variable, new in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            new = ops.cast(new, variable.dtype)
            variable.assign(variable * self.momentum + new * (1.0 - self.momentum))

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
        # This operation returns the unbiased variance of a batch. The wrapper in `tf.nn` is not
        # used because it raises epsilon to at least 1.001e-5.
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
        # The operation keeps the type of its input, which differs with `autocast=False`.
        return ops.cast(outputs, self.compute_dtype)

    def _values_per_channel(self, inputs, mask=None):
        shape = ops.shape(inputs)
        reduced = [axis for axis in range(len(shape)) if axis != self.axis % len(shape)]
        if mask is not None:
            # The parent class takes the moments of masked values on each replica alone.
            mask = ops.expand_dims(ops.cast(mask, "bool"), axis=-1)
            return ops.sum(ops.cast(ops.broadcast_to(mask, shape), "float32"), axis=reduced)
        values = math.prod(shape[axis] for axis in reduced)
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
