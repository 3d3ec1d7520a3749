"""How pixels are normalized, in one place."""

import math

import numpy as np

# What a network may take: mean and standard deviation of each channel, of pixels in [0, 1].
PIXELS = {
    "0..255": ((0.0,) * 3, (1 / 255,) * 3),
    "0..1": ((0.0,) * 3, (1.0,) * 3),
    "-1..1": ((0.5,) * 3, (0.5,) * 3),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def statistics_of(pixels, channels):
    """Mean and standard deviation for a name of `PIXELS`.

    Args:
        pixels: The name.
        channels: Number of channels C of the images.

    Returns:
        Two tuples of C numbers.

    Raises:
        ValueError: If it is `"imagenet"` and the images do not have three channels.
    """
    mean, std = PIXELS[pixels]
    if channels == 3:
        return mean, std
    if pixels == "imagenet":
        raise ValueError(
            "`pixels` can be 'imagenet' only for images of three channels. "
            f"Received: images of {channels} channels"
        )
    return mean[:1] * channels, std[:1] * channels


def pixel_statistics(images, block_pixels=2**21):
    """Mean and standard deviation of each channel, computed a block of images at a time.

    Args:
        images: uint8 [N, H, W, C].
        block_pixels: Number of pixels of the images that are read at once, at least one image.
            NumPy counts them as int64: the default needs 16 MiB.

    Returns:
        Two tuples of C numbers, of pixels in [0, 1]; the deviation is at least 1/255.
    """
    counts = np.zeros((images.shape[-1], 256))
    block = max(1, block_pixels // math.prod(images.shape[1:3]))
    for start in range(0, len(images), block):
        for channel, count in enumerate(counts):
            values = images[start : start + block, ..., channel]
            count += np.bincount(values.ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    levels = np.arange(256) / 255
    mean = shares @ levels
    std = np.sqrt(np.maximum(shares @ levels**2 - mean**2, 0))
    return tuple(mean.tolist()), tuple(np.maximum(std, 1 / 255).tolist())


def scale_and_shift(mean, std):
    """Turn mean and standard deviation into the numbers that normalize 8-bit pixels.

    Args:
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.

    Returns:
        `(scale, shift)`, float32 [C]: `x * scale + shift` is `(x / 255 - mean) / std`.
    """
    mean, std = np.asarray(mean), np.asarray(std)
    return (1 / (255 * std)).astype("float32"), (-mean / std).astype("float32")


def normalize(images, mean, std):
    """Normalize 8-bit images.

    Args:
        images: uint8 [N, H, W, C], NumPy or JAX.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.

    Returns:
        float32 [N, H, W, C].
    """
    scale, shift = scale_and_shift(mean, std)
    return images.astype("float32") * scale + shift
