"""Where a layer is in a model, whatever the layers are called."""

import hashlib

from letkd_keras.functional.composite_layers import open_layer
from letkd_keras.functional.graph import find_layer, flatten, nodes


def layer_position(model, name, argument="layer"):
    """Identify a layer by its position, which is the same when the model is built again.

    Keras numbers layers differently ("re_lu_3", "re_lu_4") when a model is built a second time. The
    position tells the class of the layer, its number from the end of the flattened model, and a
    hash of the classes from there to the end.

    Args:
        model: Functional `keras.Model`, perhaps with models inside.
        name: Name of a layer; `"vit_encoder/block_9"` is a layer inside a composite layer.
        argument: Name of the argument in errors.

    Returns:
        Text such as `"ReLU-4-5d41402abc4b"`. Those of a composite layer and of the layer inside it
        are separated by a `/`.

    Raises:
        ValueError: If there is no such layer, or a composite layer cannot be looked into.
    """
    flat = flatten(model)
    outer, _, inner = str(name).partition("/")
    layer = find_layer(flat, outer, argument)
    position = _positions(flat)[layer.name]
    if inner:
        position += f"/{layer_position(_opened(flat, layer), inner, argument)}"
    return position


def layer_at(model, position):
    """The name of the layer at a position.

    Args:
        model: As in `layer_position`.
        position: What `layer_position` returned for the same model, perhaps with other names.

    Returns:
        The name, or `None` if the model has no layer there.

    Raises:
        ValueError: If a composite layer cannot be looked into.
    """
    flat = flatten(model)
    outer, _, inner = position.partition("/")
    name = next((name for name, own in _positions(flat).items() if own == outer), None)
    if name is None or not inner:
        return name
    inside = layer_at(_opened(flat, find_layer(flat, name)), inner)
    return inside and f"{name}/{inside}"


def _positions(flat):
    """The positions of all layers by name."""
    positions, digest = {}, hashlib.sha256()
    for number, operation in enumerate(reversed(flat.operations), start=1):
        kind = type(operation).__name__
        digest.update(f"{kind}\n".encode())
        positions[operation.name] = f"{kind}-{number}-{digest.hexdigest()[:12]}"
    return positions


def _opened(flat, layer):
    """The layers inside a composite layer, as a model."""
    call = next(node for node in nodes(flat) if node.operation is layer)
    return open_layer(layer, call.input_tensors[0])
