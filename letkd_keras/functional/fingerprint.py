import hashlib
import json
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


def architecture_fingerprint(model):
    """Identify what a model computes with its weights by a hash of its layers.

    The hash covers the settings of each layer and how the layers are connected. As in
    `fingerprint`, the names of layers do not count, nor does what is frozen.

    Args:
        model: Functional `keras.Model`.

    Returns:
        64 hexadecimal digits (SHA-256), or `None` if a layer has no configuration.
    """
    try:
        config = {**model.get_config(), "name": None}
    except NotImplementedError:  # a layer that cannot be saved
        return None
    layers = [layer["name"] for layer in config.get("layers", ())]
    numbers = {name: number for number, name in enumerate(layers)}
    text = json.dumps(_without_names(config, numbers), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _without_names(config, numbers):
    """A configuration with the numbers of layers in place of their names."""
    if isinstance(config, dict):
        return {
            key: _without_names(value, numbers)
            for key, value in config.items()
            if key not in ("trainable", "build_config", "compile_config")
        }
    if isinstance(config, list | tuple):
        return [_without_names(value, numbers) for value in config]
    return numbers.get(config, config) if isinstance(config, str) else config
