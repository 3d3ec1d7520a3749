"""Converting classifiers that return probabilities into classifiers that return logits."""

import keras
import numpy as np

from letkd_keras.functional.classifier import check_classifier
from letkd_keras.functional.graph import (
    IDLE_AT_INFERENCE,
    as_functional,
    calls_from_output,
    flatten,
    layers_inside,
)
from letkd_keras.functional.graph_copy import copy_of

# Layers that classifiers end in. What others put out is looked at.
_OF_LOGITS = (keras.layers.Dense, keras.layers.Conv2D)
# Height and width that stand for sizes a model leaves open.
_ANY_SIZE = 64
# Operations on tensors have no attribute `activation`. Their class names identify them.
_OPERATIONS = {"Softmax": keras.activations.softmax, "Sigmoid": keras.activations.sigmoid}


def remove_softmax(model, argument="model"):
    """Convert a classifier that returns probabilities into one that returns logits.

    `keras.applications` and many other models end in a softmax. Distillation and the losses of this
    package need logits: they remain exact where probabilities underflow.

    Args:
        model: Functional or sequential `keras.Model` from images to logits or softmax
            probabilities. The softmax may be the activation of a layer, a layer or an operation,
            also in a model inside the model.
        argument: Name of the model in errors.

    Returns:
        The model itself, as a functional one, if it does not end in an activation. Otherwise a
        functional model without models inside. It shares all layers except that of the softmax. If
        that layer has weights, a new layer takes its place and shares them. So training one model
        trains the other. Only the weights of layers inside that layer are copied.

    Raises:
        ValueError: If the model is no classifier, ends in an activation that is not a softmax, or
            computes probabilities in another way.
    """
    model = as_functional(model, argument)
    flat = flatten(model)
    check_classifier(flat, argument)
    last = last_operation(flat)
    activation = _activation_of(last)
    if activation is keras.activations.linear:
        _check_no_probabilities(flat, last, argument)
        return model
    # That of TensorFlow or JAX, given as a function, is called so too.
    if getattr(activation, "__name__", None) not in ("softmax", "softmax_v2"):
        raise ValueError(
            f"`{argument}` must end in logits or in a softmax over the classes. "
            f"Received: {argument}={model.name!r}, which ends in {last.name!r} with the "
            f"activation {getattr(activation, '__name__', activation)!r}"
        )

    # The same softmax may be called inside, too. Its last call is that at the end.
    behind = []
    for node in calls_from_output(flat):
        if node.operation is last:
            break
        behind.append(node.operation)
    # What is before the softmax is not called again, so that `layer.output` is a tensor of the new
    # model, too.
    if getattr(last, "weights", ()):
        arguments = node.arguments
        logits = _call_without_activation(last, *arguments.args, **arguments.kwargs)
    else:
        # A softmax in float32 ends a network of half precision: its logits are float32 too.
        (logits,) = node.input_tensors
        dtype = getattr(last, "compute_dtype", logits.dtype)
        logits = logits if dtype == logits.dtype else keras.ops.cast(logits, dtype)
    for operation in reversed(behind):
        logits = operation(logits)
    return keras.Model(flat.inputs[0], logits, name=model.name)


def _call_without_activation(layer, *args, **kwargs):
    """Call a layer with the weights of another one, but without its activation."""
    is_frozen = not layer.trainable
    if is_frozen:  # Keras would count weights that are frozen now as never trainable.
        layer.trainable = True
    linear = copy_of(layer, activation="linear")
    # Weights of layers inside are copied.
    own = {} if layers_inside(layer) else {weight.name: weight for weight in layer.weights}
    add_weight = linear.add_weight

    def shared(*args, name=None, **kwargs):
        return own[name] if name in own else add_weight(*args, name=name, **kwargs)

    linear.add_weight = shared
    outputs = linear(*args, **kwargs)
    del linear.add_weight
    if not own:
        linear.set_weights(layer.get_weights())
    if is_frozen:
        layer.trainable = linear.trainable = False
    return outputs


def _check_no_probabilities(model, last, argument):
    """Refuse a model whose softmax is not at its very end, such as an ensemble's average."""
    if isinstance(last, _OF_LOGITS):
        return
    shape = [size or _ANY_SIZE for size in model.inputs[0].shape[1:]]
    images = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    outputs = keras.ops.convert_to_numpy(model(images, training=False)).astype("float32")
    if np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1, atol=1e-2):
        raise ValueError(
            f"`{argument}` must end in logits or in a softmax over the classes. "
            f"Received: {argument}={model.name!r}, whose outputs are probabilities, but whose "
            f"last layer {last.name!r} is no softmax. Build a model of its logits"
        )


def _activation_of(operation):
    if isinstance(operation, keras.layers.Softmax):
        return keras.activations.softmax
    if not isinstance(operation, keras.layers.Layer):
        return _OPERATIONS.get(type(operation).__name__, keras.activations.linear)
    return getattr(operation, "activation", keras.activations.linear)


def last_operation(model):
    """The last operation of a model that changes its input."""
    operations = (node.operation for node in calls_from_output(model))
    return next(operation for operation in operations if not _is_identity(operation))


def _is_identity(operation):
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    casts = type(operation).__name__ == "Cast"
    return casts or isinstance(operation, IDLE_AT_INFERENCE)
