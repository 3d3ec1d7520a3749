"""Where the blocks of a network end, and what operations are: merges, activations, convolutions."""

from keras import layers

from letkd_keras.functional.composite_layers import open_layer
from letkd_keras.functional.graph import (
    IDLE_AT_INFERENCE,
    KERNELS,
    layers_directly_inside,
    layers_inside,
    nodes,
)

_MERGES = (layers.Add, layers.Concatenate, layers.Average, layers.Subtract, layers.Maximum)
_ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU)
# Operations on tensors (`x + shortcut`, `keras.ops.relu(x)`) are identified by the names of their
# classes, because Keras has no public names for these classes.
_MERGING_OPERATIONS = ("Add", "Concatenate")
_ACTIVATING_OPERATIONS = (
    "Relu",
    "ReLU",
    "Relu6",
    "Silu",
    "Gelu",
    "HardSwish",
    "HardSilu",
    "LeakyRelu",
)


def cuts(calls):
    """For each call, whether all later calls depend on its output alone."""
    waiting = {}
    for node in calls:
        for tensor in node.input_tensors:
            waiting[id(tensor)] = waiting.get(id(tensor), 0) + 1
    produced = set()
    for node in calls:
        for tensor in node.input_tensors:
            waiting[id(tensor)] -= 1
        produced.update(id(tensor) for tensor in node.output_tensors)
        pending = {key for key in produced if waiting.get(key, 0) > 0}
        yield pending <= {id(tensor) for tensor in node.output_tensors}


def token_blocks(calls, shape_of, are_patches, only_layers=False):
    """Names of the blocks among calls that map tokens to tokens of the same shape.

    `are_patches(shape)` says whether tokens of a shape are the patches of the grid in question. A
    block ends where all later calls depend on its output alone: at a residual addition, or at a
    layer of several dense layers. Of the ends after one attention layer and before the next, the
    last counts. A layer of several blocks is looked into; operations on tensors in there have names
    that change.
    """
    ends, attentions = {}, 0
    for node, is_cut in zip(calls, cuts(calls), strict=True):
        operation = node.operation
        attentions += _attends(operation)
        shape = shape_of(node.output_tensors[0])
        same = any(shape_of(tensor) == shape for tensor in node.input_tensors)
        if not (is_cut and same and are_patches(shape)):
            continue
        if only_layers and not isinstance(operation, layers.Layer):
            continue
        names = [operation.name] if merges(operation) or count_convolutions(operation) > 1 else []
        if _holds_blocks(operation):
            names = _blocks_inside(operation, node.input_tensors[0], are_patches) or names
        if names:
            ends.setdefault(attentions, []).append(names)
    if attentions:
        return [name for number in sorted(ends) if number for name in ends[number][-1]]
    return [name for names in ends.get(0, ()) for name in names]


def _blocks_inside(layer, inputs, are_patches):
    """Names of the blocks inside a layer; none if its code cannot be called symbolically."""
    try:
        opened = open_layer(layer, inputs)
    except ValueError:
        return []
    calls = [node for node in nodes(opened) if not node.is_input]
    inside = token_blocks(calls, lambda tensor: tuple(tensor.shape), are_patches, only_layers=True)
    return [f"{layer.name}/{name}" for name in inside]


def _attends(operation):
    """Whether an operation is or contains attention."""
    names = [type(operation).__name__]
    if isinstance(operation, layers.Layer):
        names += [type(layer).__name__ for layer in layers_inside(operation)]
    return any("attention" in name.lower() or name == "Softmax" for name in names)


def _holds_blocks(operation):
    """Whether a layer calls several blocks of one kind, each with dense layers and norms."""
    if not isinstance(operation, layers.Layer):
        return False
    kinds = [
        type(layer)
        for layer in layers_directly_inside(operation)
        if count_convolutions(layer) > 1
        and any("Normalization" in type(part).__name__ for part in layers_inside(layer))
    ]
    return any(kinds.count(kind) > 1 for kind in kinds)


def count_convolutions(operation):
    """Number of convolutions, or dense layers, that an operation is or consists of."""
    if not isinstance(operation, layers.Layer):
        return int(type(operation).__name__ in ("Conv", "DepthwiseConv", "SeparableConv"))
    parts = [operation, *layers_inside(operation)]
    return sum(any(name in KERNELS for name in _own_weights(part)) for part in parts)


def _own_weights(layer):
    inside = {id(weight) for part in layers_inside(layer) for weight in part.weights}
    return [weight.name for weight in layer.weights if id(weight) not in inside]


def merges(operation):
    """Whether an operation adds or joins tensors, as at the end of a block."""
    return isinstance(operation, _MERGES) or _is_tensor_operation(operation, _MERGING_OPERATIONS)


def activates(operation):
    """Whether an operation is an activation."""
    return isinstance(operation, _ACTIVATIONS) or _is_tensor_operation(
        operation, _ACTIVATING_OPERATIONS
    )


def changes_little(operation):
    """Whether an operation is an activation, or does nothing at inference."""
    return activates(operation) or isinstance(operation, IDLE_AT_INFERENCE)


def _is_tensor_operation(operation, names):
    return not isinstance(operation, layers.Layer) and type(operation).__name__ in names
