"""Batches for `fit` of images in memory: a pure function of seed, epoch and step.

The order and the augmentation of a step depend on nothing else. A run that is started again at any
step therefore sees the same batches as one that was not interrupted, for any number of threads.
Only `policies` have random states of their own, which begin again.
"""

import math

import numpy as np

from letkd_keras.data.keras_cv_policies import check_channels, keras_cv_policies
from letkd_keras.data.normalization import scale_and_shift
from letkd_keras.data.shuffled_order import shuffled


def training_batches(
    images,
    labels,
    batch_size,
    *,
    mean,
    std,
    crop_padding=4,
    flip=True,
    rotation=0.0,
    policies=(),
    num_classes=None,
    seed=0,
    first_epoch=0,
    epochs=None,
    drop_remainder=True,
    with_rows=False,
    part=None,
):
    """Shuffled, augmented, normalized training batches as a `tf.data.Dataset`.

    Random rotation, random crop after padding by reflection, horizontal flip and normalization per
    channel are computed on whole batches (measured in `benchmarks/train_step.py`).

    Args:
        images: uint8 [N, H, W, C]; memory-mapped or large ones are read batch by batch.
        labels: Integers [N].
        batch_size: Images of a batch.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        crop_padding: Pixels of padding by reflection before the random crop, 0 for no crop.
        flip: Whether half of the images are mirrored left to right.
        rotation: Largest angle of rotation to either side, in degrees.
        policies: Names of further augmentations (`keras_cv_policies`). They have random states of
            their own. RandAugment needs three channels.
        num_classes: Number of classes, for policies that mix labels.
        seed: Seed of order and augmentation.
        first_epoch: Epoch the data set starts with.
        epochs: Epoch that the data set ends before, `None` for no end. Give `fit`
            `steps_per_epoch`.
        drop_remainder: Whether the last, smaller batch of an epoch is left out, as in the authors'
            program.
        with_rows: Whether batches contain the index of each image in `images`, as
            `{"image": [B, H, W, C], "row": int32 [B]}` (`CRD` needs it).
        part: `(index, count)` for one of so many equal parts of every batch, such as that of a
            worker; `None` for whole batches.

    Returns:
        Data set of (float32 [B, H, W, C], int64 [B]); labels are float32 [B, classes] if a policy
        mixes them.

    Raises:
        ValueError: If sizes disagree, the batch is larger than the data, or it cannot be divided,
            the padding is not less than height and width, a policy is unknown or cannot be used, or
            RandAugment is to change images that do not have three channels.
    """
    import tensorflow as tf

    count = check_images(images, labels)
    check_batch_size(batch_size, count)
    check_padding(crop_padding, images)
    check_channels(policies or (), images.shape[-1])
    own = part_of_batch(batch_size, part, drop_remainder)
    steps = steps_per_epoch(count, batch_size, drop_remainder)
    read = _reader(images, labels)
    normalize = normalizer(mean, std)
    policy = keras_cv_policies(policies, num_classes) if policies else None

    def batch(number):
        epoch, step = number // steps, number % steps
        positions = tf.range(step * batch_size, tf.minimum((step + 1) * batch_size, count))
        rows = shuffled(positions, seed, epoch, count)
        x, y = read(rows)
        draw = tf.stack([tf.constant(seed, "int64"), number])
        x = augment(x, draw, crop_padding, flip, rotation)
        if policy is not None:
            x, y = policy(x, y)
        x, y, rows = normalize(x[own]), y[own], rows[own]
        return ({"image": x, "row": tf.cast(rows, "int32")} if with_rows else x), y

    numbers = tf.data.Dataset.range(
        first_epoch * steps, np.iinfo("int64").max if epochs is None else epochs * steps
    )
    dataset = numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return without_auto_shard(dataset.prefetch(tf.data.AUTOTUNE))


def evaluation_batches(images, labels, batch_size, *, mean, std, part=None):
    """Normalized batches in order, without augmentation, as a `tf.data.Dataset`.

    Args:
        images: uint8 [N, H, W, C]; memory-mapped or large ones are read batch by batch.
        labels: Integers [N].
        batch_size: Images of a batch; the last batch may be smaller.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        part: `(index, count)` for the batches `index`, `index + count`, ...; `None` for all.

    Returns:
        Data set of (float32 [B, H, W, C], int64 [B]).

    Raises:
        ValueError: If sizes disagree or the batch size is not positive.
    """
    import tensorflow as tf

    count = check_images(images, labels)
    check_batch_size(batch_size)
    read = _reader(images, labels)
    normalize = normalizer(mean, std)

    def batch(step):
        x, y = read(tf.range(step * batch_size, tf.minimum((step + 1) * batch_size, count)))
        return normalize(x), y

    index, parts = part or (0, 1)
    total = steps_per_epoch(count, batch_size, drop_remainder=False)
    steps = tf.data.Dataset.range(index, total, parts)
    dataset = steps.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return without_auto_shard(dataset.prefetch(tf.data.AUTOTUNE))


def steps_per_epoch(count, batch_size, drop_remainder=True):
    """Number of batches of an epoch.

    Args:
        count: Number of images.
        batch_size: Images of a batch.
        drop_remainder: Whether the last, smaller batch is left out, as training batches do by
            default.

    Returns:
        An integer.

    Raises:
        ValueError: If the batch size is not positive.
    """
    check_batch_size(batch_size)
    return count // batch_size if drop_remainder else math.ceil(count / batch_size)


def part_of_batch(batch_size, part, drop_remainder=True):
    """Where one of several equal parts of a batch is.

    Args:
        batch_size: Images of a batch.
        part: `(index, count)`, or `None` for the whole batch.
        drop_remainder: Whether all batches have this size.

    Returns:
        A slice.

    Raises:
        ValueError: If batches cannot be divided into so many equal parts.
    """
    if part is None:
        return slice(None)
    index, count = part
    if batch_size % count or not drop_remainder:
        raise ValueError(
            f"`batch_size` must be a multiple of the {count} workers, in all batches. "
            f"Received: batch_size={batch_size}, drop_remainder={drop_remainder}"
        )
    size = batch_size // count
    return slice(index * size, (index + 1) * size)


def augment(images, seed, crop_padding, flip, rotation=0.0):
    """Random rotation, crop after padding by reflection, and flip, of a batch of images.

    Args:
        images: Tensor [B, H, W, C] of any type.
        seed: Two integers; the same seed gives the same result.
        crop_padding: Pixels of padding, 0 for no crop.
        flip: Whether half of the images are mirrored.
        rotation: Largest angle of rotation to either side, in degrees. As in torchvision, pixels
            come from their nearest neighbor, those from outside are black.

    Returns:
        Tensor of the same shape and type.
    """
    import tensorflow as tf

    if rotation:
        images = _rotate(images, tf.add(seed, [2**32, 0]), rotation)
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
        mirrored = tf.random.stateless_uniform((size, 1), tf.add(seed, [0, 2**32])) < 0.5
        columns = tf.where(mirrored, columns[:, ::-1], columns)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def _rotate(images, seed, rotation):
    import tensorflow as tf

    size, height, width, _ = tf.unstack(tf.shape(images))
    limit = rotation * math.pi / 180
    angles = tf.random.stateless_uniform((size,), seed, minval=-limit, maxval=limit)
    cosine, sine = tf.cos(angles), tf.sin(angles)
    # Output pixel (x, y) comes from (a x + b y + c, d x + e y + f); the center stays.
    x, y = (tf.cast(side - 1, "float32") / 2 for side in (width, height))
    columns = (cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y)
    transforms = tf.stack([*columns, tf.zeros_like(angles), tf.zeros_like(angles)], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.stack([height, width]),
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )


def check_images(images, labels):
    """Check that images and labels match.

    Returns:
        The number of images.

    Raises:
        ValueError: If they do not match.
    """
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(
            "`images` must be uint8 [N, H, W, C]. "
            f"Received: {images.dtype} of shape {tuple(images.shape)}"
        )
    if len(labels) != len(images):
        raise ValueError(
            "`labels` must be as many as `images`. "
            f"Received: {len(labels)} labels for {len(images)} images"
        )
    return len(images)


def check_batch_size(batch_size, count=None):
    """Refuse empty batches and batches of more images than there are.

    Args:
        batch_size: Images of a batch.
        count: Number of images of which whole batches are made; `None` for no limit.

    Raises:
        ValueError: If the size is out of range.
    """
    largest = math.inf if count is None else count
    if not 1 <= batch_size <= largest:
        limit = "at least 1" if count is None else f"between 1 and the {count} training images"
        raise ValueError(f"`batch_size` must be {limit}. Received: batch_size={batch_size}")


def check_padding(crop_padding, images):
    """Refuse a padding that reflection cannot fill.

    Raises:
        ValueError: If it is negative, or not less than height and width.
    """
    height, width = images.shape[1:3]
    if not 0 <= crop_padding < min(height, width):
        raise ValueError(
            f"`crop_padding` must be at least 0 and less than height and width of the {height}x"
            f"{width} images. Received: crop_padding={crop_padding}"
        )


# Arrays up to this size are copied into TensorFlow, which then gathers rows without Python.
_COPIED_BYTES = 2**28


def _reader(images, labels):
    """A function from row numbers to their images and labels."""
    import tensorflow as tf

    all_labels = tf.constant(labels, "int64")
    if not isinstance(images, np.memmap) and images.nbytes <= _COPIED_BYTES:
        all_images = tf.constant(images)
        return lambda rows: (tf.gather(all_images, rows), tf.gather(all_labels, rows))

    def read(rows):
        x = tf.numpy_function(lambda rows: np.asarray(images[rows]), [rows], tf.uint8)
        return tf.ensure_shape(x, (None, *images.shape[1:])), tf.gather(all_labels, rows)

    return read


def normalizer(mean, std):
    """A function from uint8 [B, H, W, C] to normalized float32, see `scale_and_shift`."""
    import tensorflow as tf

    scale, shift = scale_and_shift(mean, std)
    return lambda x: tf.cast(x, "float32") * scale + shift


def without_auto_shard(dataset):
    """Under a distribution strategy, split each batch instead of skipping elements."""
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)
