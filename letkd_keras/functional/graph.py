"""Functional models as graphs: what reads what, copies with changes, models inside models."""

import difflib
import functools

import keras


def check_functional(model, argument):
    """Refuse what is not a functional model with one input and one output.

    Raises:
        ValueError: Naming `argument`.
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        sequential = isinstance(model, keras.Sequential)
        hint = ". Make it one: keras.Model(model.inputs, model.outputs)" if sequential else ""
        raise ValueError(
            f"`{argument}` must be a functional keras.Model, so that its layers can be reached by "
            f"name. Received: {argument}={model!r} of {type(model)}{hint}"
        )
    if len(model.outputs) != 1 or len(model.inputs) != 1:
        raise ValueError(
            f"`{argument}` must have one input and one output. "
            f"Received: {len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )


def spatial_shape(shape):
    """Height and width of a shape [B, H, W, C] under Keras' data format."""
    if keras.config.image_data_format() == "channels_last":
        return tuple(shape[1:3])
    return tuple(shape[2:4])


def grid_ratio(fine, coarse):
    """How many times a grid (height, width) is another in both directions, or `None`."""
    ratios = {f // c if f % c == 0 else None for f, c in zip(fine, coarse, strict=True)}
    return ratios.pop() if len(ratios) == 1 else None


def nodes(model):
    """The calls that make up a functional model, each after those it reads."""
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def output_of(model, layer):
    """What a layer puts out in a model.

    `layer.output` is the first call's, which is another model's where models share layers.
    """
    return next(node.output_tensors[0] for node in nodes(model) if node.operation is layer)


def readers(model, layer):
    """The operations of the model that read the layer's output, and the model if it is output."""
    produced = {
        id(tensor)
        for node in nodes(model)
        if node.operation is layer
        for tensor in node.output_tensors
    }
    reading = [
        node.operation
        for node in nodes(model)
        if any(id(tensor) in produced for tensor in node.input_tensors)
    ]
    if any(id(tensor) in produced for tensor in model.outputs):
        reading.append(model)
    return reading


def find_layer(model, name, argument="layer"):
    """The layer, or operation on tensors, of a functional model with a given name.

    Raises:
        ValueError: If there is none, naming close ones, or if it is called more than once, so that
            the name does not tell which output is meant.
    """
    operations = {operation.name: operation for operation in model.operations}
    if name not in operations:
        names = list(operations)
        close = difflib.get_close_matches(str(name), names, n=5) or names[-5:]
        raise ValueError(
            f"`{argument}` must name a layer of {model.name!r}. Received: {argument}={name!r}. "
            f"Layers with a like name, or else the last ones: {', '.join(close)}"
        )
    layer = operations[name]
    calls = sum(node.operation is layer for node in nodes(model))
    if calls > 1:
        raise ValueError(
            f"`{argument}` must name a layer that {model.name!r} calls once. "
            f"Received: {argument}={name!r}, called {calls} times"
        )
    return layer


def retrace(model, operation_fn=lambda operation: operation, call_fn=None):
    """Run a functional model's graph again on new inputs of the same shape.

    Args:
        model: Functional `keras.Model` of one input and one output.
        operation_fn: What takes an operation's place; itself by default, so that layers, and
            their weights, are shared.
        call_fn: `call_fn(operation, *args, **kwargs)` in place of calling the operation.

    Returns:
        `(input, output)` symbolic tensors.
    """
    source = model.inputs[0]
    name = source._keras_history.operation.name
    inputs = keras.Input(batch_shape=source.shape, dtype=source.dtype, name=name)
    call = call_fn or (lambda operation, *args, **kwargs: operation(*args, **kwargs))
    outputs = model._run_through_graph([inputs], operation_fn=operation_fn, call_fn=call)
    return inputs, keras.tree.flatten(outputs)[0]


def run_through(model, inputs, call_fn):
    """Run a functional model's graph on any kind of tensor.

    Args:
        model: Functional `keras.Model` of one input and one output.
        inputs: The input tensor.
        call_fn: `call_fn(operation, *args, **kwargs)` that stands in for calling the operation.

    Returns:
        The output tensor.
    """
    return keras.tree.flatten(model._run_through_graph([inputs], call_fn=call_fn))[0]


def all_layers(model):
    """All layers of a model, including those inside models and composite layers."""
    return list(model._flatten_layers(include_self=False))


def flatten(model):
    """The same model without models inside it, sharing all layers.

    Args:
        model: Functional `keras.Model`, perhaps with functional or sequential models as layers (a
            backbone, a head).

    Returns:
        The model itself if there is nothing to flatten, else a functional model whose layers are
        all those inside. A `training` argument that a model inside was called with goes to its
        layers.

    Raises:
        ValueError: If two layers then have the same name.
    """
    if not any(_is_inner_model(operation) for operation in model.operations):
        return model

    inside = {}

    def call(operation, *args, training=None, **kwargs):
        inside[id(operation)] = operation
        if training is not None and getattr(operation, "_call_has_training_arg", False):
            kwargs["training"] = training
        if not _is_inner_model(operation):
            return operation(*args, **kwargs)
        inner = lambda op, *a, **k: call(op, *a, **{"training": training, **k})  # noqa: E731
        if isinstance(operation, keras.Sequential):
            return functools.reduce(lambda x, layer: inner(layer, x), operation.layers, args[0])
        return operation._run_through_graph(keras.tree.flatten(args[0]), call_fn=inner)

    inputs, outputs = retrace(model, call_fn=call)
    names = [op.name for op in inside.values() if not _is_inner_model(op)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{model.name!r} has models inside whose layers bear the same names: "
            f"{', '.join(twice)}. Give them names of their own."
        )
    return keras.Model(inputs, outputs, name=model.name)


def _is_inner_model(operation):
    return isinstance(operation, keras.Sequential) or (
        isinstance(operation, keras.Model) and hasattr(operation, "_run_through_graph")
    )


def copy_with(model, call_fn):
    """Copy a functional model with another way of calling its layers.

    Args:
        model: Functional `keras.Model`; it is left as it was.
        call_fn: `call_fn(layer, *args, **kwargs)`, given the copied layers.

    Returns:
        A functional model of copied layers with the same names and weights.

    Raises:
        ValueError: If the model has a `Lambda` layer, which cannot be copied or saved safely.
    """
    copies = {}

    def copy(operation):
        if isinstance(operation, keras.layers.Lambda):
            raise ValueError(
                f"{model.name!r} has the Lambda layer {operation.name!r}, which cannot be saved "
                "without its code. Write it as a layer with `register_keras_serializable`."
            )
        if id(operation) not in copies:
            copies[id(operation)] = operation.__class__.from_config(operation.get_config())
        return copies[id(operation)]

    inputs, outputs = retrace(model, operation_fn=copy, call_fn=call_fn)
    copied = keras.Model(inputs, outputs, name=model.name)
    for layer in model.layers:
        if layer.weights:
            copies[id(layer)].set_weights(layer.get_weights())
    return copied
