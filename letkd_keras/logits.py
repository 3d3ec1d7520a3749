"""Classifiers that end in probabilities, as classifiers that end in logits."""

import keras

from letkd_keras.graph import check_functional, retrace


def with_logits(model, argument="model"):
    """The same classifier, giving logits.

    `keras.applications` and many users' models end in a softmax. Distillation and the losses here
    work on logits, which log-softmax keeps exact where probabilities underflow.

    Args:
        model: Functional `keras.Model` from images to logits or to softmax probabilities.
        argument: What an error calls the model.

    Returns:
        The model itself if its last layer has no activation; else a model that shares all layers
        but the last.

    Raises:
        ValueError: If the model ends in an activation that is not a softmax.
    """
    check_functional(model, argument)
    last = model.outputs[0]._keras_history.operation
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
        if not last.weights:
            return args[0]
        config = {**last.get_config(), "activation": "linear"}
        outputs = (linear := last.__class__.from_config(config))(*args, **kwargs)
        linear.set_weights(last.get_weights())
        return outputs

    return keras.Model(*retrace(model, call_fn=call), name=model.name)


def _activation_of(operation):
    if isinstance(operation, keras.layers.Softmax):
        return keras.activations.softmax
    # A model inside the model is asked for its own end by `flatten`, before.
    return getattr(operation, "activation", keras.activations.linear)
