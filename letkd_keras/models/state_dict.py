"""PyTorch state dicts into the networks of the zoo."""

import keras
import numpy as np

# Keras' name of a weight -> PyTorch's name of the parameter.
_PARAMETERS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def assign_state_dict(model, state_dict):
    """Give a network of the zoo the weights of a PyTorch state dict.

    Layers of the zoo have the names of the PyTorch modules, with `_` for `.`; kernels are
    transposed from [out, in / groups, h, w] and [out, in]. Nothing is assigned unless everything
    fits.

    Args:
        model: A model of `letkd_keras.models.build`, of the same width and number of classes.
        state_dict: Mapping of PyTorch names to arrays. `num_batches_tracked` entries are ignored.

    Raises:
        ValueError: If names are missing or unexpected or a shape differs; all of them are listed.
    """
    arrays = {
        key.replace(".", "_"): (key, np.asarray(array))
        for key, array in state_dict.items()
        if not key.endswith("num_batches_tracked")
    }
    assignments, missing, misshaped = [], [], []
    for layer in model.layers:
        for weight in layer.weights:
            parameter = _PARAMETERS.get(weight.name, weight.name)
            key, array = arrays.pop(f"{layer.name}_{parameter}", (None, None))
            if key is None:
                missing.append(f"{layer.name}/{weight.name}")
                continue
            axes = _pytorch_axes(layer, weight)
            expected = tuple(weight.shape[axes.index(axis)] for axis in range(len(axes)))
            if array.shape != expected:
                misshaped.append(f"{key} is {array.shape}, expected {expected}")
                continue
            assignments.append((weight, array.transpose(axes)))
    unexpected = [key for key, _ in arrays.values()]
    if missing or unexpected or misshaped:
        raise ValueError(
            f"The state dict does not fit {model.name!r}: missing {_list(missing)}; "
            f"unexpected {_list(unexpected)}; misshaped {_list(misshaped)}."
        )
    for weight, array in assignments:
        weight.assign(array)


def _pytorch_axes(layer, weight):
    """The transposition that makes a Keras weight of a PyTorch parameter."""
    if weight.name != "kernel":
        return tuple(range(len(weight.shape)))
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return (2, 3, 0, 1)  # [C, 1, h, w]
    if isinstance(layer, keras.layers.Conv2D):
        return (2, 3, 1, 0)  # [out, in / groups, h, w]
    return (1, 0)  # [out, in]


def _list(names):
    return ", ".join(names) or "nothing"
