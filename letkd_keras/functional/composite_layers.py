"""Layers inside composite layers, such as the blocks of a transformer that is one layer."""

import inspect

import keras

from letkd_keras.errors import error_reason
from letkd_keras.functional.graph import find_layer, flatten, output_of, retrace


def outputs_at(model, names, argument="layer"):
    """The outputs of named layers, also of layers inside composite layers.

    A transformer of keras-hub is one layer that calls its blocks. `"vit_encoder/block_9"` names the
    block inside. The composite layer is then replaced by a model of the layers that it calls, which
    computes the same.

    Args:
        model: Functional `keras.Model` with one input and one output. Models inside are flattened.
        names: Names of layers. A `/` separates a composite layer from a layer inside it.
        argument: Name of the argument in errors, or a list of one for each name.

    Returns:
        `(flat, outputs)`: the flattened model, which shares all layers, and a list of symbolic
        tensors of it in the order of `names`.

    Raises:
        ValueError: If there is no such layer, it is called more than once, or a composite layer
            cannot be looked into.
    """
    flat = flatten(model)
    inside, found = {}, {}
    arguments = [argument] * len(names) if isinstance(argument, str) else argument
    for name, argument in zip(names, arguments, strict=True):
        outer, _, inner = str(name).partition("/")
        find_layer(flat, outer, argument)
        if inner:
            inside.setdefault(outer, {})[inner] = argument

    def call(operation, *args, **kwargs):
        wanted = inside.get(operation.name)
        if wanted is None:
            return operation(*args, **kwargs)
        opened, outputs = outputs_at(
            open_layer(operation, args[0]), list(wanted), list(wanted.values())
        )
        opened = keras.Model(opened.inputs, [*opened.outputs, *outputs], name=operation.name)
        first, *outputs = opened(args[0])
        for inner, output in zip(wanted, outputs, strict=True):
            found[f"{operation.name}/{inner}"] = output
        return first

    if inside:
        flat = keras.Model(*retrace(flat, call), name=flat.name)
    for name in names:
        if name not in found:
            found[name] = output_of(flat, find_layer(flat, name))
    return flat, [found[name] for name in names]


def open_layer(layer, *args, **kwargs):
    """A functional model of the layers that a composite layer calls, to its first output.

    Args:
        layer: A built layer. `call` must use `keras.ops`.
        *args: The arguments of a call. Symbolic tensors stand for inputs of their shapes and types.
        **kwargs: Likewise.

    Raises:
        ValueError: If the layer cannot be called in this way.
    """
    sources = []

    def source_of(value):
        if not isinstance(value, keras.KerasTensor):
            return value
        sources.append(keras.Input(batch_shape=value.shape, dtype=value.dtype))
        return sources[-1]

    args, kwargs = keras.tree.map_structure(source_of, (args, kwargs))
    # Without the scores, blocks of DeiT in keras-hub return `None`, which no graph can have.
    scores = "return_attention_scores"
    if scores in inspect.signature(layer.call).parameters:
        kwargs[scores] = True
    try:
        with keras.StatelessScope():  # a layer may count its calls
            outputs = keras.tree.flatten(layer.call(*args, **kwargs))
            return keras.Model(sources, outputs[0], name=layer.name)
    except Exception as error:  # whatever the code of the layer raises
        raise ValueError(
            f"The layers inside {layer.name!r} must be reachable by calling it with a symbolic "
            f"tensor. Received: {type(layer).__name__}, which fails: {error_reason(error)}"
        ) from error
