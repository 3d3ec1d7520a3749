"""Classifier heads: adding one to a backbone and training it alone."""

import contextlib

import keras

from letkd_keras.data_format import spatial_shape
from letkd_keras.functional.graph import (
    as_functional,
    calls_from_output,
    flatten,
    flatten_if_savable,
    layers_inside,
)
from letkd_keras.ranges import class_count

_POOLING = {4: keras.layers.GlobalAveragePooling2D, 3: keras.layers.GlobalAveragePooling1D}


def add_head(model, num_classes, name="classifier", argument="model"):
    """Give a backbone, or a classifier of other classes, a new classifier head.

    The head is a dense layer with fresh weights. Feature maps [B, H, W, C] and tokens [B, N, C] are
    averaged first. Where the model ends in a dense layer, or in a 1x1 convolution of pooled
    features, it is taken for a classifier, and the new layer replaces that one and all that
    follows it.

    Args:
        model: Functional or sequential `keras.Model` with one input and one output. It is not
            changed; the result shares its layers and weights.
        num_classes: Number of classes, at least 2.
        name: Name of the dense layer. A number is added if a layer has this name.
        argument: Name of the model in errors.

    Returns:
        A functional `keras.Model` from the same images to logits [B, num_classes], without models
        inside where it can be saved in that form (`flatten_if_savable`).

    Raises:
        ValueError: If `num_classes` is out of range, the model is not functional, or its output has
            no such shape.
    """
    num_classes = class_count.check(num_classes, "num_classes")
    model = as_functional(model, argument)
    graph, flat = flatten_if_savable(model), flatten(model)
    features = _features(graph)
    # The classifier may be part of a model inside.
    if features is graph.outputs[0] and _features(flat) is not flat.outputs[0]:
        graph, features = flat, _features(flat)
    rank = len(features.shape)
    if rank in _POOLING:
        features = _POOLING[rank](name=free_name(flat, "pooling"))(features)
    elif rank != 2:
        raise ValueError(
            f"`{argument}` must output features [B, H, W, C], [B, N, C] or [B, C]. "
            f"Received: an output of shape {tuple(features.shape)}"
        )
    head = keras.layers.Dense(num_classes, name=free_name(flat, name))
    return keras.Model(graph.inputs, head(features), name=graph.name)


def classifier_layer(model):
    """The layer of a classifier's logits: the last one with weights.

    Args:
        model: Functional or sequential `keras.Model` with one input and one output.

    Raises:
        ValueError: If the model is not functional, or does not end in one layer with weights.
    """
    model = as_functional(model)
    node = _last_with_weights(flatten(model))
    if node is None:
        raise ValueError(
            "`model` must end in a layer with weights, such as a dense layer of logits. "
            f"Received: model={model.name!r}"
        )
    return node.operation


@contextlib.contextmanager
def frozen_backbone(model):
    """Freeze all layers but the one of the logits, so that a new head is trained first.

        with frozen_backbone(model):
            model.compile(...)
            model.fit(...)

    Frozen batch normalizations use their moving statistics and keep them. A model must be compiled
    again after this, because Keras takes the list of weights to train when it compiles.

    Args:
        model: Functional classifier, such as that of `add_head`.

    Yields:
        The layer that is trained.

    Raises:
        ValueError: If the model is not functional, or does not end in one layer with weights.
    """
    head = classifier_layer(model)
    layers = [layer for layer in flatten(model).layers if layer is not head]
    # Keras freezes the layers inside a layer, and weights, with it. Some may be frozen already.
    parts = [part for layer in layers for part in (layer, *layers_inside(layer), *layer.weights)]
    before = [part.trainable for part in parts]
    try:
        for layer in layers:
            layer.trainable = False
        yield head
    finally:
        for part, trainable in zip(parts, before, strict=True):
            part.trainable = trainable


def free_name(model, name):
    """The name itself, or with a number where a layer of the model has it."""
    names = {operation.name for operation in model.operations}
    candidates = (name, *(f"{name}_{number}" for number in range(1, len(names) + 2)))
    return next(candidate for candidate in candidates if candidate not in names)


def _features(model):
    """What the classifier layer at the end of a model reads, or the output if there is none."""
    output = model.outputs[0]
    node = _last_with_weights(model)
    if node is None or len(output.shape) != 2:
        return output
    features = node.input_tensors[0]
    if isinstance(node.operation, keras.layers.Dense):
        return features
    is_convolution = isinstance(node.operation, keras.layers.Conv2D)
    if is_convolution and spatial_shape(features.shape) == (1, 1):
        return keras.layers.Flatten(name=free_name(model, "flattening"))(features)
    return output


def _last_with_weights(model):
    """The call of the last layer with weights, if only operations without follow it, else `None`.

    What follows may read one tensor only: the softmax of logits does, a residual addition does not.
    """
    for node in calls_from_output(model):
        if getattr(node.operation, "weights", ()):
            return node
        if len(node.input_tensors) != 1:
            return None
