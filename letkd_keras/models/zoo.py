"""The table of networks: one row a name."""

import difflib
from functools import partial

from letkd_keras.models.resnet import cifar_resnet

_NARROW = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)

# name: builder taking (num_classes, input_shape, name)
_NETWORKS = {
    **{
        f"resnet{depth}": partial(cifar_resnet, depth, _NARROW)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{f"resnet{depth}x4": partial(cifar_resnet, depth, _WIDE) for depth in (8, 32)},
}


def names():
    """Names of the networks `build` knows, in the order of the table."""
    return list(_NETWORKS)


def build(name, num_classes=100, input_shape=(32, 32, 3)):
    """Build a network of the zoo with fresh weights.

    Args:
        name: One of `letkd_keras.models.names()`, e.g. `"resnet56"`.
        num_classes: Number of classes, at least 2.
        input_shape: Shape of an image without the batch dimension, in Keras' data format. Height
            and width may be `None`; KD layers then cannot be checked against a teacher's grid
            before training.

    Returns:
        A functional `keras.Model` from images to logits [B, num_classes], whose layers
        `intermediate` and `penultimate` are the taps of letKD.

    Raises:
        ValueError: If the name is not in the table (it is listed) or a number is out of range.
    """
    if name not in _NETWORKS:
        close = difflib.get_close_matches(str(name), _NETWORKS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"`name` must be one of {', '.join(_NETWORKS)}. Received: name={name!r}.{hint}"
        )
    if not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(
            f"`num_classes` must be an integer of at least 2. Received: num_classes={num_classes}"
        )
    if len(tuple(input_shape)) != 3:
        raise ValueError(
            "`input_shape` must be that of one image, three numbers. "
            f"Received: input_shape={input_shape}"
        )
    return _NETWORKS[name](num_classes=num_classes, input_shape=tuple(input_shape), name=name)
