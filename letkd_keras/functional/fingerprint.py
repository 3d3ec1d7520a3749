import hashlib
import re

import keras
import numpy as np


def fingerprint(model):
    """Identify a model by a hash of its weights.

    The hash covers name, shape and bytes of each weight in the order of `model.weights`. The name
    of the weight ("kernel") counts. The name of its layer does not, because Keras numbers layers
    differently ("conv2d_7") when a model is built a second time. Nor does the name of a weight that
    was given none, which Keras numbers too. Saving, loading, freezing and compiling do not change
    the fingerprint; training does.

    Args:
        model: A built `keras.Model`.

    Returns:
        64 hexadecimal digits (SHA-256).

    Raises:
        ValueError: If the model is not built or has no weights.
    """
    if not model.weights:
        raise ValueError(f"`model` must be built and have weights. Received: model={model!r}")
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        name = re.sub(r"^variable_\d+$", "variable", weight.name)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
