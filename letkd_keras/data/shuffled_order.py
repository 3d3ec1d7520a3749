"""The order of the images in an epoch: a function of seed and epoch alone."""

import numpy as np

# TensorFlow's cipher with its own four rounds is too weak: consecutive seeds put many of the same
# images into one batch, and consecutive epochs do so where the images are sorted by class.
_ROUNDS = 8


def shuffled(positions, seed, epoch, count):
    """The numbers of the images at positions of an epoch's random order.

    This is a permutation of all images, computed for each position by itself, so that no state of a
    whole epoch is kept.

    Args:
        positions: Integer tensor of positions in the order, 0 to `count - 1`.
        seed: Seed of the order.
        epoch: Epoch, an integer tensor.
        count: Number of images.

    Returns:
        Tensor of the shape and type of `positions`.
    """
    import tensorflow as tf

    # The operation takes three numbers as its key.
    key = tf.stack([tf.constant(seed, "int64"), tf.cast(epoch, "int64"), np.int64(count)])
    return tf.raw_ops.RandomIndexShuffle(
        index=positions,
        seed=key,
        max_index=tf.cast(count - 1, positions.dtype),
        rounds=_ROUNDS,
    )
