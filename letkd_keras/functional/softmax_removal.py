"""Classifiers that end in probabilities, as classifiers that end in logits."""

import keras

from letkd_keras.functional.graph import check_functional, flatten, nodes, retrace


def remove_softmax(model, argument="model"):
    """The same classifier, giving logits.

    `keras.applications` and many users' models end in a softmax. Distillation and the losses here
    work on logits, which log-softmax keeps exact where probabilities underflow.

    Args:
        model: Functional or sequential `keras.Model` from images to logits or to softmax
            probabilities. The softmax may be a layer's activation, a layer or an operation, and lie
            in a model inside.
        argument: What an error calls the model.

    Returns:
        The model, as a functional one, if it does not end in an activation; else a functional model
        without models inside it, that shares all layers but the one with the softmax.

    Raises:
        ValueError: If the model ends in an activation that is not a softmax.
    """
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    check_functional(model, argument)
    flat = flatten(model)
    last = _end(flat)
    activation = _activation_of(last)
    if activation is keras.activations.linear:
        return model
    if activation is not keras.activations.softmax:
        raise ValueError(
            f"`{argument}` must end in logits or in a softmax over the classes. "
            f"Received: {argument}={model.name!r}, which ends in {last.name!r} with the "
            f"activation {getattr(activation, '__name__', activation)!r}"
        )

    def call(operation, *args, **kwargs):
        if operation is not last:
            return operation(*args, **kwargs)
        if not getattr(last, "weights", ()):
            return args[0]
        config = {**last.get_config(), "activation": "linear"}
        outputs = (linear := last.__class__.from_config(config))(*args, **kwargs)
        linear.set_weights(last.get_weights())
        return outputs

    return keras.Model(*retrace(flat, call_fn=call), name=model.name)


# Operations on tensors have no activation to ask for; they are told by the names of their classes.
_OPERATIONS = {"Softmax": keras.activations.softmax, "Sigmoid": keras.activations.sigmoid}


def _activation_of(operation):
    if isinstance(operation, keras.layers.Softmax):
        return keras.activations.softmax
    if not isinstance(operation, keras.layers.Layer):
        return _OPERATIONS.get(type(operation).__name__, keras.activations.linear)
    return getattr(operation, "activation", keras.activations.linear)


def _end(model):
    """The last operation of a model that does more than hand its input on."""
    makers = {id(tensor): node for node in nodes(model) for tensor in node.output_tensors}
    node = makers[id(model.outputs[0])]
    while _hands_on(node.operation):
        node = makers[id(node.input_tensors[0])]
    return node.operation


def _hands_on(operation):
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    casts = type(operation).__name__ == "Cast"
    return casts or isinstance(operation, (keras.layers.Identity, keras.layers.Dropout))
