import keras
from keras import ops

from letkd_keras.layers.image_blocks import reduce_images


def pointwise_conv(features, kernel, dtype):
    """1x1 convolution of features [B, H, W, C] with a kernel [C, K], computed in `dtype`."""
    features, kernel = ops.cast(features, dtype), ops.cast(kernel, dtype)
    return ops.conv(features, kernel[None, None], data_format="channels_last")


def score_moments(directions, kernel, block_size, dtype, synchronized=False):
    """Mean and variance of each template's scores, without a tensor of all scores.

    The scores are `pointwise_conv(directions, kernel, dtype)`. They are computed block by block and
    not again for the gradient: that of sums of `s` and of `s^2` is linear in the scores, so it only
    takes the mean and the covariance of the directions.

    Args:
        directions: Normalized features [B, H, W, C], in at least float32.
        kernel: [C, K], likewise.
        block_size: Images of a block.
        dtype: Type in which the scores are computed.
        synchronized: Whether the moments are those of all replicas together.

    Returns:
        `(mean, variance, values)`: mean and biased variance, [K] each, and the number of values
        that each is over.
    """
    shape = ops.shape(directions)
    locations = ops.cast(shape[0] * shape[1] * shape[2], kernel.dtype)
    direction_sum = ops.sum(directions, axis=(0, 1, 2))
    all_locations, direction_mean = locations, direction_sum / locations
    if synchronized:
        all_locations, all_sum = _over_replicas(locations), _over_replicas(direction_sum)
        direction_mean = all_sum / all_locations
    # The squares of deviations from about the mean keep all digits. The result does not depend on
    # this shift, and neither does its gradient.
    shift = ops.stop_gradient(ops.squeeze(direction_mean[None] @ kernel, axis=0))
    sums = _deviation_sums(directions, kernel, shift, block_size, dtype)
    if synchronized:
        sums = _over_replicas(sums)
    deviation, square = (x / all_locations for x in ops.unstack(sums))
    return shift + deviation, square - ops.square(deviation), all_locations


def _deviation_sums(directions, kernel, shift, block_size, dtype):
    """Sums over all locations of `s - shift` and its square, [2, K]."""

    @ops.custom_gradient
    def of(directions, kernel):
        # What is computed here is not recorded for automatic differentiation.
        constant_kernel = ops.stop_gradient(kernel)

        def of_block(directions):
            scores = ops.cast(pointwise_conv(directions, constant_kernel, dtype), shift.dtype)
            deviations = scores - shift
            axes = (0, 1, 2)
            return [ops.sum(deviations, axes), ops.sum(ops.square(deviations), axes)]

        sums = ops.stack(reduce_images(of_block, [directions], block_size))

        def gradient(upstream):
            # With s = d W, the gradient of the scores is first + 2 second (s - shift).
            first, second = ops.unstack(upstream)
            rows = ops.reshape(directions, (-1, kernel.shape[0]))
            mean = ops.mean(rows, axis=0, keepdims=True)
            centered = rows - mean
            at_mean = first + 2.0 * second * (mean @ kernel - shift)
            weighted = 2.0 * second * kernel
            transposed = ops.transpose(kernel)
            to_rows = centered @ (weighted @ transposed) + at_mean @ transposed
            covariance = ops.transpose(centered) @ centered
            row_sum = ops.sum(rows, axis=0)[:, None]
            to_kernel = covariance @ weighted + row_sum @ at_mean
            return ops.reshape(to_rows, ops.shape(directions)), to_kernel

        return sums, gradient

    return of(directions, kernel)


def _over_replicas(x):
    """Sum over the replicas of TensorFlow's strategy."""
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return x if context is None else context.all_reduce(tf.distribute.ReduceOp.SUM, x)
