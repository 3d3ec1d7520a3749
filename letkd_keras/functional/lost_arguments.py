"""Arguments of a custom layer that its copy lacks, since `get_config` does not return them."""

import inspect

import keras

from letkd_keras.functional.graph import layers_inside

# The layers of these packages return all arguments.
_TRUSTED = ("keras", "letkd_keras")
# What every layer has, in its configuration or not.
_OF_EVERY_LAYER = {*inspect.signature(keras.layers.Layer.__init__).parameters, "args"}


def lost_argument(layer, copied):
    """Find an argument of a layer that its copy has not, since `get_config` does not return it.

    If `get_config` leaves out arguments of the constructor, the numbers and texts are compared that
    layer and copy keep as attributes, except under the names of arguments that it returns, and
    those of the layers inside. Nothing is called: a layer may be random, or may count its calls.
    Nothing is compared if layer and copy compute in different types, since their attributes may
    depend on the type.

    Args:
        layer: Layer or operation.
        copied: Its copy.

    Returns:
        What differs, as the end of a sentence, or `None`: an argument that is not returned may have
        its default, or be computed from others.
    """
    is_comparable = isinstance(layer, keras.layers.Layer) and type(copied) is type(layer)
    if not is_comparable or layer.compute_dtype != copied.compute_dtype:
        return None
    returned = layer.get_config().keys()
    lost = _arguments(layer) - returned
    if not lost:
        return None
    layers = [layer, *layers_inside(layer)], [copied, *layers_inside(copied)]
    for own, other in zip(*layers, strict=False):
        expected, found = _attributes(own, lost), _attributes(other, lost)
        kept = expected.keys() & found.keys()
        for name in sorted(kept - returned if own is layer else kept):
            if repr(expected[name]) != repr(found[name]):  # so that NaN is equal to NaN
                return f"a copy with {name}={found[name]!r} in place of {expected[name]!r}"
    return None


def _arguments(layer):
    """Names of the arguments of the constructors that are not those of Keras."""
    names = {
        name
        for kind in type(layer).__mro__
        if kind.__module__.split(".")[0] not in (*_TRUSTED, "builtins") and "__init__" in vars(kind)
        for name in inspect.signature(kind.__init__).parameters
    }
    return names - _OF_EVERY_LAYER


def _attributes(layer, lost):
    """Numbers, texts and lists of them; private ones only under the name of a lost argument."""
    return {
        name: value
        for name, value in vars(layer).items()
        if (not name.startswith("_") or name[1:] in lost)
        and name not in _OF_EVERY_LAYER
        and all(isinstance(x, bool | int | float | str | None) for x in keras.tree.flatten(value))
    }
