import numpy as np


def normalisation(mean, std):
    """Factor and summand that normalise 8-bit pixels, one of each a channel.

    Args:
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.

    Returns:
        `(scale, shift)`, float32 [C]: `x * scale + shift` is `(x / 255 - mean) / std`.
    """
    mean, std = np.asarray(mean), np.asarray(std)
    return (1 / (255 * std)).astype("float32"), (-mean / std).astype("float32")
