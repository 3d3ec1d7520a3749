"""Copies of functional models with some layers replaced; the original is not changed."""

import keras

from letkd_keras.functional.graph import nodes, readers, retrace
from letkd_keras.precision import dtype_policy


def rewrite(model, replace):
    """Copy a functional model in float32 with some layers replaced.

    Args:
        model: Functional `keras.Model` without models inside.
        replace: `replace(layer, rewriter, *args, **kwargs)` returns the outputs to use instead of
            the layer's, or `None` to copy the layer. The arguments are those of its call.

    Returns:
        A functional model of float32 images. Layers that are copied keep their names and weights.
    """
    rewriter = _Rewriter(model)

    def call(operation, *args, **kwargs):
        outputs = replace(operation, rewriter, *args, **kwargs)
        return rewriter.copy(operation)(*args, **kwargs) if outputs is None else outputs

    # Layers that a replacement makes are in float32 too, whatever policy is set.
    with dtype_policy("float32"):
        inputs, outputs = retrace(model, call_fn=call, dtype="float32")
    copied = keras.Model(inputs, outputs, name=model.name)
    rewriter.copy_weights()
    return copied


class _Rewriter:
    """What a replacement can ask about the model."""

    def __init__(self, model):
        self.model = model
        self.copies = {}

    def calls(self, operation):
        """Count how often the model calls an operation."""
        return sum(node.operation is operation for node in nodes(self.model))

    def only_reader(self, operation):
        """Find the only operation that reads an output, if it is called once; else `None`."""
        if self.calls(operation) != 1:
            return None
        reading = readers(self.model, operation)
        if len(reading) != 1 or reading[0] is self.model or self.calls(reading[0]) != 1:
            return None
        return reading[0]

    def copy(self, operation, kind=None, **changes):
        """Copy an operation, perhaps as another class, with changes to its configuration.

        All its calls share the copy.
        """
        if id(operation) not in self.copies:
            if isinstance(operation, keras.layers.Lambda):
                raise ValueError(
                    "`model` must not have Lambda layers, which cannot be copied without their "
                    "code; write them as layers with `register_keras_serializable`. Received: the "
                    f"Lambda layer {operation.name!r} of {self.model.name!r}"
                )
            config = {**operation.get_config(), **changes}
            if isinstance(operation, keras.layers.Layer):
                config["dtype"] = "float32"
            kind = kind or operation.__class__
            self.copies[id(operation)] = operation, kind.from_config(config)
        return self.copies[id(operation)][1]

    def copy_weights(self):
        """Copy the weights, except of layers whose replacement has weights of other shapes."""
        for operation, copy in self.copies.values():
            weights = getattr(operation, "weights", ())
            if weights and [w.shape for w in weights] == [w.shape for w in copy.weights]:
                copy.set_weights(operation.get_weights())
            if isinstance(copy, keras.layers.Normalization):
                copy.finalize_state()  # it computes with values derived from its weights


def with_weights(layer, weights, *args):
    """Call a new layer, which builds it, and set its weights.

    Returns:
        The output of the layer.
    """
    outputs = layer(*args)
    layer.set_weights(weights)
    return outputs
