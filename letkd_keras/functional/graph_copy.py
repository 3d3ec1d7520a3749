"""Copies of functional models, perhaps with other layers or other calls of them."""

import functools

import keras

from letkd_keras.functional.graph import layers_inside, retrace
from letkd_keras.functional.lost_arguments import lost_argument
from letkd_keras.precision import dtype_policy


def copy_of(operation, kind=None, **changes):
    """A new layer or operation of the same configuration, perhaps of another class or changed."""
    return (kind or type(operation)).from_config({**operation.get_config(), **changes})


def _call(layer, call_copy, *args, **kwargs):
    return call_copy(*args, **kwargs)


def copy_with(model, call_fn=_call, copy_fn=copy_of, dtype=None):
    """Copy a functional model, perhaps with other layers or other calls of its layers.

    Args:
        model: Functional `keras.Model`; it is not changed.
        call_fn: `call_fn(layer, call_copy, *args, **kwargs)` returns the outputs of one layer or
            operation of the model. `call_copy(*args, **kwargs)` calls its copy. All calls of a
            layer have the same copy. By default each layer is replaced by its copy.
        copy_fn: `copy_fn(layer, **changes)` makes the copy of a layer, with changes to its
            configuration. It may be of another class. The weights that both have come first in
            each.
        dtype: Type of the new input, and of all layers; `None` for those of the model.

    Returns:
        A functional model. The layers that are copied keep their names and weights.

    Raises:
        ValueError: If a layer to copy is a `Lambda` layer, which cannot be copied or saved safely,
            its configuration loses an argument (`lost_argument`) or makes a layer of another number
            of weights, or a layer was quantized by Keras.
    """
    _check_not_quantized(model)
    copies = {}

    def call(operation, *args, **kwargs):
        return call_fn(operation, functools.partial(call_copy, operation), *args, **kwargs)

    def call_copy(operation, *args, **kwargs):
        if isinstance(operation, keras.layers.Lambda):
            raise ValueError(
                f"{model.name!r} has the Lambda layer {operation.name!r}, which cannot be saved "
                "without its code. Write it as a layer with `register_keras_serializable`."
            )
        if operation not in copies:
            has_dtype = dtype is not None and isinstance(operation, keras.layers.Layer)
            copies[operation] = copy_fn(operation, **({"dtype": dtype} if has_dtype else {}))
        return copies[operation](*args, **kwargs)

    # Layers that `call_fn` makes have the type too, whatever policy is set.
    with dtype_policy(dtype or keras.config.dtype_policy()):
        inputs, outputs = retrace(model, call, dtype)
    copied = keras.Model(inputs, outputs, name=model.name)
    for layer, copied_layer in copies.items():
        if getattr(layer, "weights", ()):
            _copy_weights(model, layer, copied_layer)
    finalize_normalization(copied)
    for layer, copied_layer in copies.items():
        difference = lost_argument(layer, copied_layer)
        if difference is not None:
            raise _lossy_configuration(model, layer, difference)
    return copied


def _copy_weights(model, layer, copied_layer):
    """Copy the weights of a layer, and which of them are frozen."""
    if type(copied_layer) is type(layer) and len(copied_layer.weights) != len(layer.weights):
        weights = f"{len(copied_layer.weights)} of {len(layer.weights)} weights"
        raise _lossy_configuration(model, layer, f"a copy with {weights}")
    values = layer.get_weights()
    for own, weight, value in zip(layer.weights, copied_layer.weights, values, strict=False):
        weight.assign(value)
        if not own.trainable:  # perhaps frozen by itself, which the configuration has not
            weight.trainable = False
    # The configuration says only whether the outer layer is frozen.
    parts = layers_inside(layer), layers_inside(copied_layer)
    if len(parts[0]) == len(parts[1]):
        for part, copied_part in zip(*parts, strict=True):
            copied_part.trainable = part.trainable


def copy_without(model, is_left_out, **options):
    """Copy a functional model without layers that its readers can do without.

    Args:
        model: Functional `keras.Model`; it is not changed.
        is_left_out: Function from a layer or operation to whether it is left out: its first input
            takes the place of its output.
        **options: `copy_fn` and `dtype` of `copy_with`.

    Returns:
        A functional model; the layers that are copied keep their names and weights.
    """

    def call(layer, call_copy, *args, **kwargs):
        return args[0] if is_left_out(layer) else call_copy(*args, **kwargs)

    return copy_with(model, call, **options)


def _check_not_quantized(model):
    """Refuse layers of integer weights: they cannot be trained, and copied in float32 neither."""
    for layer in layers_inside(model):
        if layer.quantization_mode is not None:
            raise ValueError(
                f"The layers of {model.name!r} must have float weights: use the model as it was "
                "before `quantize`, and let the export quantize it (`tflite-int8`). "
                f"Received: {layer.name!r}, quantized to {layer.quantization_mode}"
            )


def _lossy_configuration(model, layer, received):
    return ValueError(
        f"The layer {layer.name!r} of {model.name!r} must be made again from its configuration: "
        f"its `get_config` must return all arguments of the constructor. Received: {received}"
    )


def with_weights(layer, weights, *args):
    """Call a new layer, which builds it, and set its weights.

    Returns:
        The output of the layer.
    """
    outputs = layer(*args)
    layer.set_weights(weights)
    return outputs


def finalize_normalization(model):
    """Let the `Normalization` layers of a model, at any depth, compute with their weights.

    Keras derives what they compute with after `adapt` and after loading, not after an assignment.

    Args:
        model: Functional `keras.Model` whose weights were assigned.
    """
    for layer in layers_inside(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
