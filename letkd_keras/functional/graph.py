"""Graphs of functional models: reading them and running them on other tensors.

This is the only module that uses private attributes of Keras' graphs. `TESTED_KERAS` lists the
releases that it was run with.
"""

import difflib
import functools
import inspect
import json
import re

import keras

# A test compares the installed release with this list.
TESTED_KERAS = ("3.14.0", "3.15.1")

# Layers that do nothing at inference, besides random augmentations.
IDLE_AT_INFERENCE = (
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ActivityRegularization,
)
# Names of the weights of Keras' layers that are kernels.
KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")

# Height and width that stand for sizes a model leaves open: a multiple of 32, the usual stride.
_USUAL_SIZE = 224


def as_functional(model, argument="model"):
    """A functional or sequential model as a functional one with one input and one output.

    Returns:
        The model itself if it is functional and takes and returns tensors. Otherwise, as where it
        returns a dictionary of one tensor, a functional model of the same layers.

    Raises:
        ValueError: If it is neither, its class overrides `call`, it is a `keras.Sequential` that is
            not built, or it has several inputs or outputs, naming `argument`.
    """
    is_sequential = isinstance(model, keras.Sequential)
    if not is_model(model) and (is_sequential or _has_graph(model)):
        raise ValueError(
            f"`{argument}` must be a model that computes what its layers compute: put into layers "
            f"what its `call` does. Received: {argument}={model.name!r} of {type(model)}, which "
            "overrides `call`"
        )
    if not is_model(model) or (is_sequential and not model.built):
        hint = ", which has no `keras.Input(shape)` at its beginning" if is_sequential else ""
        if isinstance(getattr(model, "student", None), keras.Model):
            hint = f"; give `{argument}.student`"
        raise ValueError(
            f"`{argument}` must be a functional or a built sequential keras.Model, so that its "
            f"layers can be named. Received: {argument}={model!r} of {type(model)}{hint}"
        )
    if len(model.outputs) != 1 or len(model.inputs) != 1:
        raise ValueError(
            f"`{argument}` must have one input and one output. "
            f"Received: {len(model.inputs)} inputs and {len(model.outputs)} outputs"
            f"{_how_to_keep_logits(model, argument)}"
        )
    if is_sequential or any(map(keras.tree.is_nested, (model.input, model.output))):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model


def _how_to_keep_logits(model, argument):
    """How to make a model with one output of one with several, as a sentence."""
    if len(model.outputs) < 2 or len(model.inputs) != 1:
        return ""
    is_sequential = isinstance(model, keras.Sequential)
    outputs = model.compute_output_spec(model.inputs[0]) if is_sequential else model.output
    paths = {
        "".join(f"[{json.dumps(key)}]" for key in path): output
        for path, output in keras.tree.flatten_with_path(outputs)
    }
    flat = [path for path, output in paths.items() if len(output.shape) == 2] or list(paths)
    named = [path for path in flat if re.search("logit|class|predict", path.lower())]
    # A classifier is more often the last output than the first one.
    likely = (named or flat)[-1]
    kept = f"model.input, model.output{likely}"
    if is_sequential:  # it has no `input` and `output` of its own
        kept = f"model.inputs, model.outputs[{list(paths).index(likely)}]"
    return (
        f'. Keep the logits: keras.Model({kept}).save("{argument}.keras"). '
        f"The outputs are {', '.join(paths)}"
    )


def is_model(operation):
    """Whether an operation is a functional or sequential model, whose layers can be reached.

    A model of a class that overrides `call` is not: its layers are not all that it computes.
    """
    has_layers = isinstance(operation, keras.Sequential) or _has_graph(operation)
    return has_layers and type(operation).call.__module__.split(".")[0] == "keras"


def _has_graph(operation):
    return isinstance(operation, keras.Model) and hasattr(operation, "_run_through_graph")


def nodes(model):
    """Calls of a functional model in the order in which they can run.

    Returns:
        Keras' nodes, with `operation`, `input_tensors`, `output_tensors` and `is_input`.
    """
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def calls_from_output(model):
    """Calls of a functional model from that of its output back to its input.

    Of a call with several inputs, the first one is followed.

    Yields:
        Keras' nodes, see `nodes`.
    """
    makers = {id(tensor): node for node in nodes(model) for tensor in node.output_tensors}
    tensors = model.outputs
    while tensors:
        node = makers[id(tensors[0])]
        yield node
        tensors = node.input_tensors


def maker(tensor):
    """The layer or operation whose output a symbolic tensor is."""
    return tensor._keras_history.operation


def layers_inside(layer):
    """All layers inside a model or a composite layer, at any depth."""
    return list(layer._flatten_layers(include_self=False))


def layers_directly_inside(layer):
    """The layers that a composite layer has itself, not those inside them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def output_of(model, layer):
    """The output tensor of a layer in a functional model.

    `layer.output` belongs to the first call of the layer, which is in another model if models
    share layers.
    """
    return next(node.output_tensors[0] for node in nodes(model) if node.operation is layer)


def is_called_once(model, layer):
    """Whether a functional model calls a layer once, so that the layer stands for one output."""
    return sum(node.operation is layer for node in nodes(model)) == 1


def readers(model, layer):
    """The operations that read a layer's output, and the model itself if it returns that output."""
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


def only_reader(model, operation):
    """The only operation that reads an output, if both are called once; else `None`."""
    reading = readers(model, operation) if is_called_once(model, operation) else []
    alone = len(reading) == 1 and is_called_once(model, reading[0])
    return reading[0] if alone else None


def find_layer(model, name, argument="layer"):
    """The layer, or operation on tensors, of a functional model with a given name.

    Raises:
        ValueError: If there is none, or if it is called more than once, so that the name does not
            determine an output. The error lists similar names.
    """
    operations = {operation.name: operation for operation in model.operations}
    if name not in operations:
        names = list(operations)
        close = difflib.get_close_matches(str(name), names, n=5) or names[-5:]
        raise ValueError(
            f"`{argument}` must name a layer of {model.name!r}. Received: {argument}={name!r}. "
            f"Similar names, or else the last ones: {', '.join(close)}"
        )
    layer = operations[name]
    calls = sum(node.operation is layer for node in nodes(model))
    if calls > 1:
        raise ValueError(
            f"`{argument}` must name a layer that {model.name!r} calls once. "
            f"Received: {argument}={name!r}, called {calls} times"
        )
    return layer


def run(model, inputs, call_fn):
    """Run the graph of a model on other tensors.

    Args:
        model: Functional or sequential `keras.Model`.
        inputs: Tensor or tensors: symbolic, eager or of another library, as `call_fn` accepts.
        call_fn: `call_fn(operation, *args, **kwargs)` computes the outputs of one operation. Its
            first argument is `args[0]`, unless its `call` takes that by name alone. A model inside
            the model is one operation; `is_model` recognizes it, and `run` can run it.

    Returns:
        The outputs, in the structure of the model's outputs.
    """
    inputs = keras.tree.flatten(inputs)
    if isinstance(model, keras.Sequential):
        return functools.reduce(lambda x, layer: call_fn(layer, x), model.layers, inputs[0])

    def call(operation, *args, **kwargs):
        if not args:  # as in `layer(inputs=x)`
            first = next(iter(inspect.signature(operation.call).parameters.values()))
            if first.name in kwargs and first.kind is not first.KEYWORD_ONLY:
                args = (kwargs.pop(first.name),)
        return call_fn(operation, *args, **kwargs)

    return model._run_through_graph(inputs, operation_fn=lambda x: x, call_fn=call)


def retrace(model, call_fn, dtype=None):
    """Run the graph of a functional model on a new input of the same shape.

    Args:
        model: Functional `keras.Model` with one input and one output.
        call_fn: As in `run`. Where it calls the operation itself, layers and their weights are
            shared.
        dtype: Type of the new input; `None` for that of the model.

    Returns:
        `(input, output)`, symbolic tensors.
    """
    source = model.inputs[0]
    dtype = dtype or source.dtype
    inputs = keras.Input(batch_shape=source.shape, dtype=dtype, name=maker(source).name)
    return inputs, keras.tree.flatten(run(model, inputs, call_fn))[0]


def output_shapes(model, input_shape=None):
    """Shapes of all outputs in a functional model for images of a given size.

    The layers are not called, so that the model and its layers stay as they are.

    Args:
        model: Functional `keras.Model` with one input and one output, without models inside.
        input_shape: Shape of one image. `None` means the model's own; dimensions that it leaves
            open are 224.

    Returns:
        Dictionary from the `id` of each tensor of the model to its shape, batch size 1.
    """
    source = model.inputs[0]
    own = tuple(input_shape or source.shape[1:])
    own = tuple(_USUAL_SIZE if size is None else size for size in own)
    shapes = {id(source): (1, *own)}
    calls = (node for node in nodes(model) if not node.is_input)

    def call(operation, *args, **kwargs):
        outputs = operation.compute_output_spec(*args, **kwargs)
        for tensor, output in zip(
            next(calls).output_tensors, keras.tree.flatten(outputs), strict=True
        ):
            shapes[id(tensor)] = tuple(output.shape)
        return outputs

    run(model, keras.KerasTensor((1, *own), dtype=source.dtype), call)
    return shapes


def output_shape_of(model, name, input_shape=None):
    """Shape of a named layer's output for images of a given size.

    Args:
        model: Functional `keras.Model` with one input and one output. Models inside are flattened.
        name: Name of the layer.
        input_shape: Shape of one image. `None` means the model's own; dimensions that it leaves
            open are 224.

    Returns:
        The shape, with batch size 1.

    Raises:
        ValueError: If there is no such layer or it is called more than once.
    """
    flat = flatten(model)
    return output_shapes(flat, input_shape)[id(output_of(flat, find_layer(flat, name)))]


def flatten(model):
    """The same model with the layers of the models inside it, all of them shared.

    Args:
        model: Functional `keras.Model`, perhaps with functional or sequential models as layers (a
            backbone, a head).

    Returns:
        The model itself if it has no models inside, otherwise a functional model of all layers. A
        `training` argument with which a model inside is called is passed on to its layers.

    Raises:
        ValueError: If two layers then have the same name.
    """
    if not any(is_model(operation) for operation in model.operations):
        return model

    inside = {}

    def call(operation, *args, training=None, path=(), **kwargs):
        if is_model(operation):
            given = keras.tree.flatten(args[0])
            taken = getattr(operation, "inputs", given)
            tensors = list(map(_as_the_model_takes_it, given, taken))
            path = (*path, operation.name)
            return run(operation, tensors, functools.partial(call, training=training, path=path))
        inside[id(operation)] = operation, path
        if training is not None and getattr(operation, "_call_has_training_arg", False):
            kwargs["training"] = training
        return operation(*args, **kwargs)

    inputs, outputs = retrace(model, call)
    names = [operation.name for operation, _ in inside.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        example = next(pair for pair in inside.values() if pair[0].name in twice and pair[1])
        raise ValueError(
            f"The models inside {model.name!r} must have layers of different names: rename layers, "
            f"such as by `{_renaming(*example)}`. Received: several layers with each of these "
            f"names: {', '.join(twice)}"
        )
    return keras.Model(inputs, outputs, name=model.name)


def _renaming(operation, path):
    """Code that renames a layer or operation inside `model`, in the model of a path of names."""
    owner = "".join(["model", *(f".get_layer({name!r})" for name in path)])
    if isinstance(operation, keras.layers.Layer):
        found = f"{owner}.get_layer({operation.name!r})"
    else:
        found = f"next(x for x in {owner}.operations if x.name == {operation.name!r})"
    return f"{found}.name = {f'{path[-1]}_{operation.name}'!r}"


def _as_the_model_takes_it(tensor, source):
    """A tensor cast to the type of a model's input. The model's layers cast floats themselves."""
    dtypes = {tensor.dtype, source.dtype}
    if len(dtypes) == 1 or all(map(keras.backend.is_float_dtype, dtypes)):
        return tensor
    return keras.ops.cast(tensor, source.dtype)


def flatten_if_savable(model):
    """The same model without models inside, if it can be saved and loaded in that form.

    Layers of other packages may not be able to be made again from their configuration, though the
    model that they are part of can: those of the transformers in keras-hub 0.32.

    Args:
        model: Functional `keras.Model`.

    Returns:
        What `flatten` gives, if all of its layers can be made again. Otherwise a functional model
        that has the models of other classes inside.
    """
    flat = flatten(model)
    if all(_can_be_made_again(layer) for layer in flat.layers):
        return flat
    if type(model) is type(keras.Model(flat.inputs, flat.outputs)):
        return model
    # A model of a class of its own becomes one layer.
    inputs = keras.Input(batch_shape=flat.inputs[0].shape, dtype=flat.inputs[0].dtype, name="image")
    return keras.Model(inputs, model(inputs), name=f"{model.name}_classifier")


def _can_be_made_again(layer):
    if type(layer).__module__.split(".")[0] == "keras":
        return True
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    except Exception:  # whatever the code of the layer raises
        return False
    return True
