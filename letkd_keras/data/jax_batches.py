"""Batches of images in memory on JAX's device, without TensorFlow.

The augmentation is that of `letkd_keras.data.array_batches` with JAX's random numbers. It is again
a pure function of seed, epoch and step.
"""

import functools
import math

import keras
import numpy as np

from letkd_keras.data.array_batches import (
    check_batch_size,
    check_images,
    check_padding,
    part_of_batch,
    steps_per_epoch,
)
from letkd_keras.data.normalization import normalize


class JaxBatches(keras.utils.PyDataset):
    """Batches that a compiled function makes on the device of the images.

    Args:
        images: uint8 [N, H, W, C].
        labels: Integers [N].
        numbers: Range of the numbers of the batches; a number is `epoch * steps + step`.
        rows: Function from a number to the indices of its images, an integer array.
        key: Seed of the augmentation.
        transform: Function of (uint8 images, key of the batch) on the device.
        with_rows: Whether batches contain the index of each image in `images`.
        own: Slice of the images of each batch that is returned.

    Attributes:
        images: The images, on the device.
        make: Compiled function of `images`, the rows of a batch and its number, which returns the
            images of the batch.
    """

    def __init__(
        self, images, labels, numbers, rows, key, transform, with_rows=False, own=slice(None)
    ):
        import jax

        super().__init__()
        self.numbers = numbers
        self.rows = rows
        self.labels = np.asarray(labels, "int64")
        self.with_rows = with_rows
        self.own = own
        # An argument of `make`, so that they are not compiled into the program as a constant.
        self.images = jax.numpy.asarray(images)

        @jax.jit
        def make(images, rows, number):
            key_of_batch = jax.random.fold_in(jax.random.key(key), number)
            return transform(images[rows], key_of_batch)

        self.make = make

    def __len__(self):
        return len(self.numbers)

    def __getitem__(self, index):
        number = self.numbers[index]
        rows = self.rows(number).astype("int32")
        # Of the whole batch, so that each part has the same roundings.
        images, rows = self.make(self.images, rows, number)[self.own], rows[self.own]
        return ({"image": images, "row": rows} if self.with_rows else images), self.labels[rows]

    def __iter__(self):
        return (self[index] for index in range(len(self)))


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
    """Shuffled, augmented, normalized training batches.

    Arguments and errors are those of `letkd_keras.data.array_batches.training_batches`.

    Returns:
        `JaxBatches` of (float32 [B, H, W, C], int64 [B]).

    Raises:
        ValueError: Also if there are `policies`; keras-cv needs TensorFlow.
    """
    count = check_images(images, labels)
    check_batch_size(batch_size, count)
    check_padding(crop_padding, images)
    if policies:
        raise ValueError(
            "`policies` need the TensorFlow backend (KERAS_BACKEND=tensorflow). "
            f"Received: policies={policies}"
        )
    own = part_of_batch(batch_size, part, drop_remainder)
    steps = steps_per_epoch(count, batch_size, drop_remainder)

    @functools.lru_cache(maxsize=1)
    def order(epoch):
        return np.random.default_rng([seed, epoch]).permutation(count)

    def rows(number):
        start = number % steps * batch_size
        return order(number // steps)[start : start + batch_size]

    # Without an end: as many numbers as JAX's 32 bits can count, more than the steps of a training.
    numbers = range(first_epoch * steps, 2**31 - 1 if epochs is None else epochs * steps)

    def transform(images, key):
        augmented = augment(images, key, crop_padding, flip, rotation)
        return normalize(augmented, mean, std)

    return JaxBatches(images, labels, numbers, rows, seed, transform, with_rows, own)


def evaluation_batches(images, labels, batch_size, *, mean, std, part=None):
    """Normalized batches in order, without augmentation, as `JaxBatches`.

    Arguments are those of `letkd_keras.data.array_batches.evaluation_batches`.
    """
    count = check_images(images, labels)
    check_batch_size(batch_size)

    def rows(number):
        return np.arange(number * batch_size, min((number + 1) * batch_size, count))

    index, parts = part or (0, 1)
    numbers = range(index, steps_per_epoch(count, batch_size, drop_remainder=False), parts)
    return JaxBatches(
        images, labels, numbers, rows, 0, lambda images, key: normalize(images, mean, std)
    )


def augment(images, key, crop_padding, flip, rotation=0.0):
    """Random rotation, crop after padding by reflection, and flip, of a batch of images.

    Args:
        images: Array [B, H, W, C] of any type.
        key: JAX's random key; the same key gives the same result.
        crop_padding: Pixels of padding, 0 for no crop.
        flip: Whether half of the images are mirrored.
        rotation: Largest angle of rotation to either side, in degrees; pixels come from their
            nearest neighbor, those from outside are black.

    Returns:
        Array of the same shape and type.
    """
    import jax
    import jax.numpy as jnp

    turn, shift, mirror = jax.random.split(key, 3)
    size, height, width, _ = images.shape
    if rotation:
        limit = math.radians(rotation)
        angles = jax.random.uniform(turn, (size,), minval=-limit, maxval=limit)
        images = jax.vmap(_rotated)(images, angles)
    rows, columns = (jnp.tile(jnp.arange(side), (size, 1)) for side in (height, width))
    if crop_padding:
        padding = [(0, 0), (crop_padding, crop_padding), (crop_padding, crop_padding), (0, 0)]
        images = jnp.pad(images, padding, mode="reflect")
        offsets = jax.random.randint(shift, (2, size, 1), 0, 2 * crop_padding + 1)
        rows, columns = rows + offsets[0], columns + offsets[1]
    if flip:
        mirrored = jax.random.bernoulli(mirror, shape=(size, 1))
        columns = jnp.where(mirrored, columns[:, ::-1], columns)
    return images[jnp.arange(size)[:, None, None], rows[:, :, None], columns[:, None]]


def _rotated(image, angle):
    import jax.numpy as jnp
    from jax.scipy.ndimage import map_coordinates

    height, width, channels = image.shape
    y, x = jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    rows = sine * x + cosine * y[:, None] + (height - 1) / 2
    columns = cosine * x - sine * y[:, None] + (width - 1) / 2
    turned = [
        map_coordinates(image[..., channel], [rows, columns], order=0)
        for channel in range(channels)
    ]
    return jnp.stack(turned, axis=-1)
