"""Whether a model is a classifier, with one sentence about what to do where it is not."""

import keras

from letkd_keras.functional.graph import as_functional, calls_from_output, flatten

# Batch normalization is missing: some classifiers of convolutions alone end in it.
_NORMALIZATIONS = (keras.layers.GroupNormalization, keras.layers.LayerNormalization)
_MERGES = (keras.layers.Add, keras.layers.Concatenate)


def check_classifier(model, argument="model"):
    """Check that a functional model ends in logits, or probabilities, of classes.

    Args:
        model: `keras.Model`.
        argument: Name of the model in errors.

    Raises:
        ValueError: If the model is not functional or has no classifier at its end: its output is
            not [B, classes] of at least two classes, or is the pooled output of a layer
            normalization or a residual addition of feature maps.
    """
    model = as_functional(model, argument)
    shape = tuple(model.outputs[0].shape)
    if len(shape) != 2 or shape[-1] is None or _ends_in_features(flatten(model)):
        raise ValueError(
            f"`{argument}` must be a classifier with logits [B, classes], and this model has no "
            f"head. Add one ({_head(shape)}) and train it. "
            f"Received: {argument}={model.name!r}, which outputs features of shape {shape}"
        )
    if shape[-1] < 2:
        raise ValueError(
            f"`{argument}` must have at least two classes; for a binary problem end it in "
            f"`Dense(2)`. Received: {argument}={model.name!r} with outputs {shape}"
        )


def _head(shape):
    pooling = {4: "`GlobalAveragePooling2D` and ", 3: "`GlobalAveragePooling1D` and "}
    return f"{pooling.get(len(shape), '')}`Dense(classes)`"


def _ends_in_features(model):
    """Whether only layers without weights follow a layer normalization or a residual addition."""
    for node in calls_from_output(model):
        operation = node.operation
        if isinstance(operation, _NORMALIZATIONS):
            return True
        if isinstance(operation, _MERGES):
            # Logits may be sums or joined parts too, as in a folded student; feature maps may not.
            return len(node.output_tensors[0].shape) > 2
        if getattr(operation, "weights", ()) or len(node.input_tensors) != 1:
            return False
