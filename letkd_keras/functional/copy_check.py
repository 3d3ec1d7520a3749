"""Whether the copy of a layer computes what the layer computes."""

import inspect

import keras
import numpy as np

from letkd_keras.functional.graph import layers_inside

# Size that stands for dimensions that a model leaves open, other than the batch.
_ANY_SIZE = 32
# Largest difference relative to the largest output: copies of half precision may be in float32.
_TOLERANCES = {"float16": 0.05, "bfloat16": 0.1}
_TOLERANCE = 1e-3
# The classes of these packages return all arguments in `get_config`.
_TRUSTED = ("keras", "letkd_keras")
# Arguments that a copy may have otherwise.
_FREE = {"name", "dtype", "trainable", "seed"}


def is_checked(layer, copied):
    """Whether a copy is to be checked: one of the same class, which is of another package."""
    return type(copied) is type(layer) and type(layer).__module__.split(".")[0] not in _TRUSTED


def difference_of_copy(layer, copied, args, kwargs):
    """Compare a layer with its copy, of the same weights.

    The arguments of the constructor that both keep as attributes are compared, also those of layers
    inside, such as the rate of a dropout. Then both are called in inference mode on random numbers
    from -10 to 10, integers 0 and 1. The outputs are not compared if the layer is random at
    inference, or cannot be called on such inputs, on this device, outside of its model.

    Args:
        layer: Built layer or operation.
        copied: Its copy, of the same class.
        args: The arguments of a call; any symbolic tensors in them are replaced.
        kwargs: Likewise.

    Returns:
        What differs, as the end of a sentence, or `None`.
    """
    for own, other in zip(_with_layers_inside(layer), _with_layers_inside(copied), strict=False):
        expected, found = _arguments(own), _arguments(other)
        for name in expected.keys() & found.keys() if type(own) is type(other) else ():
            if found[name] != expected[name]:
                return f"a copy with {name}={found[name]!r} in place of {name}={expected[name]!r}"
    args, kwargs = keras.tree.map_structure(_random_in_place, (args, kwargs))
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = False
    try:
        expected = _outputs(layer, args, kwargs)
    except Exception:  # whatever the code of the layer raises
        return None
    if _are_close(_outputs(copied, args, kwargs), expected, layer):
        return None
    if not _are_close(_outputs(layer, args, kwargs), expected, layer):  # random
        return None
    return "a copy with other outputs for the same inputs"


def _with_layers_inside(layer):
    return [layer, *(layers_inside(layer) if isinstance(layer, keras.layers.Layer) else ())]


def _arguments(layer):
    """The numbers, texts and lists of them that a layer keeps of its constructor's arguments."""
    names = {
        name
        for kind in type(layer).__mro__
        if "__init__" in vars(kind) and kind is not object
        for name in inspect.signature(kind.__init__).parameters
    }
    found = {}
    for name in names - _FREE:
        value = vars(layer).get(name, vars(layer).get(f"_{name}", layer))
        if all(isinstance(x, bool | int | float | str | None) for x in keras.tree.flatten(value)):
            found[name] = tuple(value) if isinstance(value, list) else value
    return found


def _random_in_place(tensor):
    """Random numbers of the shape and type of a symbolic tensor; anything else as it is."""
    if not isinstance(tensor, keras.KerasTensor):
        return tensor
    batch, *sizes = tensor.shape
    shape = (batch or 2, *(_ANY_SIZE if size is None else size for size in sizes))
    rng = np.random.default_rng(0)
    is_float = keras.backend.is_float_dtype(tensor.dtype)
    values = rng.uniform(-10, 10, shape) if is_float else rng.integers(0, 2, shape)
    return keras.ops.cast(values.astype("float32"), tensor.dtype)


def _outputs(layer, args, kwargs):
    outputs = keras.tree.flatten(layer(*args, **kwargs))
    return [keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in outputs]


def _are_close(outputs, expected, layer):
    """Whether outputs are the expected ones, wherever half precision did not overflow."""
    tolerance = _TOLERANCES.get(getattr(layer, "compute_dtype", None), _TOLERANCE)
    return [x.shape for x in outputs] == [x.shape for x in expected] and all(
        np.all(np.abs(x - y)[np.isfinite(y)] <= tolerance * _largest(y))
        for x, y in zip(outputs, expected, strict=True)
    )


def _largest(values):
    return np.max(np.abs(values), where=np.isfinite(values), initial=0)
