import hashlib

import keras
import numpy as np


def fingerprint(model):
    """A short name for what a model computes: the hash of its weights.

    The hash runs over the name, shape and bytes of each weight in the order of `model.weights`. A
    weight's own name ("kernel") counts, its layer's does not: Keras numbers layers anew
    ("conv2d_7") whenever a model is built a second time. Saving and loading, freezing and
    compiling change nothing; training does.

    Args:
        model: A built `keras.Model`.

    Returns:
        64 hexadecimal digits (SHA-256).

    Raises:
        ValueError: If the model has no weights, built or at all.
    """
    if not model.weights:
        raise ValueError(
            "`model` must be built and have weights to take a fingerprint of. "
            f"Received: model={model!r}"
        )
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{weight.name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
