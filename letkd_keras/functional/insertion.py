"""Inserting KD layers into a student."""

import keras

from letkd_keras.functional.graph import (
    as_functional,
    calls_from_output,
    find_layer,
    flatten,
    only_reader,
    output_of,
)
from letkd_keras.functional.graph_copy import copy_with
from letkd_keras.functional.layer_suggestions import suggest_layers
from letkd_keras.layers import KDLayer

# Layers and operations of Keras that may move the channels to another axis.
_MAY_MOVE_CHANNELS = frozenset(
    {"Einsum", "Lambda", "Moveaxis", "Permute", "Reshape", "Swapaxes", "Transpose"}
)


def insert_after(model, insertions):
    """Copy a functional model and insert layers after named ones.

    Whatever reads the output of a named layer reads the output of the inserted layer in the copy.
    Models inside the model (a backbone) are flattened, so that their layers can be named.

    Args:
        model: Functional or sequential `keras.Model`; it is not changed.
        insertions: Mapping of layer names to lists of new layers, in order. Each has one input and
            one output of the same shape.

    Returns:
        A functional model with the same layers, names and weights, and the inserted layers.

    Raises:
        ValueError: If the model is not functional, has no layer of a given name or calls that layer
            more than once, what is to be inserted is no list, or the model has a layer whose
            `get_config` loses an argument.
    """
    model = as_functional(model)
    flat = flatten(model)
    for name, inserted in insertions.items():
        find_layer(flat, name, "insertions")
        if not isinstance(inserted, list | tuple):
            raise ValueError(
                "`insertions` must have a list of layers for each name. "
                f"Received: {name!r}: {inserted!r}"
            )

    def call(layer, call_copy, *args, **kwargs):
        outputs = call_copy(*args, **kwargs)
        for inserted in insertions.get(layer.name, ()):
            outputs = inserted(outputs)
        return outputs

    return copy_with(flat, call)


def insert_kd_layers(
    student,
    penultimate=None,
    intermediate=None,
    *,
    penultimate_layer=None,
    intermediate_layer=None,
):
    """Copy a student and insert KD layers.

    Args:
        student: Functional or sequential `keras.Model`; it is not changed.
        penultimate: `KDLayer` to insert after the last feature map, or `None`.
        intermediate: `KDLayer` to insert after the first block of the last stage, or `None`.
        penultimate_layer: Name of the student's layer after which `penultimate` is inserted; `None`
            for the one that `suggest_layers` names.
        intermediate_layer: Likewise for `intermediate`.

    Returns:
        A functional model with the KD layers inside and the same outputs as `student`: logits, or
        probabilities where it ends in a softmax.

    Raises:
        ValueError: If the student is not functional, has no layer of a given name or calls that
            layer more than once, what is to be inserted is no `KDLayer` or one of another data
            format, no layer is named and none can be suggested, or it has a layer whose
            `get_config` loses an argument.
    """
    student = as_functional(student, "student")
    flat = flatten(student)
    insertions = {}
    for level, layer, name in (
        ("intermediate", intermediate, intermediate_layer),
        ("penultimate", penultimate, penultimate_layer),
    ):
        if layer is None:
            continue
        if not isinstance(layer, KDLayer):
            raise ValueError(
                f"`{level}` must be a KDLayer; the name of the layer that it follows is "
                f"`{level}_layer`. Received: {level}={layer!r}"
            )
        if name is None:
            name = suggest_layers(flat, "student")[level]
        if name is None:
            raise ValueError(
                f"`{level}_layer` must name a layer of {student.name!r}, since none can be "
                f"suggested. Received: {level}_layer=None"
            )
        found = _data_format_at(flat, find_layer(flat, name, f"{level}_layer"))
        if found not in (None, layer.data_format):
            raise ValueError(
                f"`{level}` must have the data format of the layers before it: "
                f"KDLayer({layer.templates}, data_format={found!r}). "
                f"Received: {level} with data_format={layer.data_format!r} after {name!r}"
            )
        insertions.setdefault(name, []).append(layer)
    return insert_after(flat, insertions)


def _data_format_at(model, layer):
    """The data format of the last layer with one, up to a layer; `None` where none tells it."""
    up_to_layer = keras.Model(model.inputs[0], output_of(model, layer))
    for node in calls_from_output(up_to_layer):
        found = getattr(node.operation, "data_format", None)
        if found is not None or _may_move_channels(node.operation):
            return found
    return None


def _may_move_channels(operation):
    is_known = type(operation).__module__.split(".")[0] in ("keras", "letkd_keras")
    return not is_known or type(operation).__name__ in _MAY_MOVE_CHANNELS


def only_pooling(student, layer):
    """The global average pooling that alone reads a KD layer's output; else `None`."""
    pooling = only_reader(student, layer)
    is_pooling = isinstance(pooling, keras.layers.GlobalAveragePooling2D)
    return pooling if is_pooling and pooling.data_format == layer.data_format else None


def is_only_pooled(student, layer):
    """Whether a KD layer's output is only read by a global average pooling to [B, C]."""
    pooling = only_pooling(student, layer)
    return pooling is not None and not pooling.keepdims


def kd_layers_of(student):
    """The KD layers of a student by name, in the order of its graph."""
    return {layer.name: layer for layer in student.layers if isinstance(layer, KDLayer)}
