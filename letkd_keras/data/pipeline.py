"""Images in memory to batches for `fit`: a pure function of seed, epoch and step.

Order and augmentation of a step depend on nothing else, so that a run started again at any step
sees what an uninterrupted one would have seen, whatever the number of threads.
"""

import math

import numpy as np


def training_batches(
    images,
    labels,
    batch_size,
    *,
    mean,
    std,
    crop_padding=4,
    flip=True,
    seed=0,
    first_epoch=0,
    epochs=None,
):
    """Shuffled, augmented, normalised training batches as a `tf.data.Dataset`.

    Random crop after padding by reflection, horizontal flip, normalisation per channel, all on
    whole batches (measured in `benchmarks/pipeline.py`).

    Args:
        images: uint8 [N, H, W, C].
        labels: Integers [N].
        batch_size: Images a batch; the last batch of an epoch holds the rest.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        crop_padding: Pixels of padding by reflection before the random crop, 0 for no crop.
        flip: Whether half of the images are mirrored left to right.
        seed: Seed of order and augmentation.
        first_epoch: Epoch the data set starts with.
        epochs: Number of epochs, `None` for no end. Give `fit` `steps_per_epoch`.

    Returns:
        Data set of (float32 [B, H, W, C], int64 [B]).

    Raises:
        ValueError: If sizes disagree or the batch is larger than the data.
    """
    import tensorflow as tf

    count = check_images(images, labels)
    if not 1 <= batch_size <= count:
        raise ValueError(
            f"`batch_size` must be between 1 and the {count} images. "
            f"Received: batch_size={batch_size}"
        )
    steps = steps_per_epoch(count, batch_size)
    all_images, all_labels = tf.constant(images), tf.constant(labels, "int64")
    normalise = _normaliser(mean, std)

    def batch(number):
        epoch, step = number // steps, number % steps
        places = tf.range(step * batch_size, tf.minimum((step + 1) * batch_size, count))
        # A stateless permutation: image by image, without an epoch's worth of state.
        order = tf.cast(tf.stack([tf.constant(seed, "int64"), epoch]), "int32")
        rows = tf.random.experimental.index_shuffle(places, order, np.int64(count - 1))
        x, y = tf.gather(all_images, rows), tf.gather(all_labels, rows)
        draw = tf.stack([tf.constant(seed, "int64"), number])
        x = augment(x, draw, crop_padding, flip)
        return normalise(x), y

    numbers = tf.data.Dataset.range(
        first_epoch * steps, np.iinfo("int64").max if epochs is None else epochs * steps
    )
    dataset = numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _unsharded(dataset.prefetch(tf.data.AUTOTUNE))


def evaluation_batches(images, labels, batch_size, *, mean, std):
    """Normalised batches in order, without augmentation, as a `tf.data.Dataset`.

    Args:
        images: uint8 [N, H, W, C].
        labels: Integers [N].
        batch_size: Images a batch.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.

    Returns:
        Data set of (float32 [B, H, W, C], int64 [B]).
    """
    import tensorflow as tf

    check_images(images, labels)
    normalise = _normaliser(mean, std)
    dataset = tf.data.Dataset.from_tensor_slices((images, np.asarray(labels, "int64")))
    dataset = dataset.batch(batch_size).map(
        lambda x, y: (normalise(x), y), num_parallel_calls=tf.data.AUTOTUNE
    )
    return _unsharded(dataset.prefetch(tf.data.AUTOTUNE))


def steps_per_epoch(count, batch_size):
    """Batches of an epoch, the last, smaller one included."""
    return math.ceil(count / batch_size)


def augment(images, seed, crop_padding, flip):
    """Random crop after padding by reflection, and horizontal flip, of a batch of images.

    Args:
        images: Tensor [B, H, W, C] of any type.
        seed: Two integers; the same seed gives the same result.
        crop_padding: Pixels of padding, 0 for no crop.
        flip: Whether half of the images are mirrored.

    Returns:
        Tensor of the same shape and type.
    """
    import tensorflow as tf

    size, height, width, _ = tf.unstack(tf.shape(images))
    columns = tf.tile(tf.range(width)[None], (size, 1))
    if crop_padding:
        offsets = tf.random.stateless_uniform(
            (size, 2), seed, maxval=2 * crop_padding + 1, dtype="int32"
        )
        padding = [[0, 0], [crop_padding] * 2, [crop_padding] * 2, [0, 0]]
        images = tf.pad(images, padding, mode="REFLECT")
        rows = tf.range(height)[None] + offsets[:, :1]
        images = tf.gather(images, rows, axis=1, batch_dims=1)
        columns = columns + offsets[:, 1:]
    if flip:
        # A mirrored crop is the crop with its columns read backwards.
        mirrored = tf.random.stateless_uniform((size, 1), seed + [0, 2**32]) < 0.5
        columns = tf.where(mirrored, columns[:, ::-1], columns)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def check_images(images, labels):
    """Number of images, once images and labels are seen to fit.

    Raises:
        ValueError: If they do not.
    """
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(
            "`images` must be uint8 [N, H, W, C]. "
            f"Received: {images.dtype} of shape {tuple(images.shape)}"
        )
    if len(labels) != len(images):
        raise ValueError(
            f"`labels` must be one a image. Received: {len(labels)} for {len(images)} images"
        )
    return len(images)


def _normaliser(mean, std):
    import tensorflow as tf

    # (x / 255 - mean) / std as one multiplication and one addition.
    scale = np.asarray(1 / (255 * np.asarray(std)), "float32")
    shift = np.asarray(-np.asarray(mean) / np.asarray(std), "float32")
    return lambda x: tf.cast(x, "float32") * scale + shift


def _unsharded(dataset):
    """Under a distribution strategy, shard by splitting batches, not by skipping elements."""
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
