"""Functional models rewritten layer by layer; the original is never called nor changed."""

import keras

from letkd_keras.functional.graph import nodes, readers, retrace


def rewrite(model, replace):
    """A copy of a functional model with some layers replaced, in float32.

    Args:
        model: Functional `keras.Model` without models inside.
        replace: `replace(layer, rewriter, *args, **kwargs)` returns what stands in for the layer's
            outputs, or `None` to copy the layer. The arguments are those of its call.

    Returns:
        A functional model; layers that are copied keep their names and weights.
    """
    rewriter = _Rewriter(model)

    def call(operation, *args, **kwargs):
        outputs = replace(operation, rewriter, *args, **kwargs)
        return rewriter.copy(operation)(*args, **kwargs) if outputs is None else outputs

    inputs, outputs = retrace(model, call_fn=call)
    copied = keras.Model(inputs, outputs, name=model.name)
    rewriter.copy_weights()
    return copied


class _Rewriter:
    """What a replacement may want to know of the model it is in."""

    def __init__(self, model):
        self.model = model
        self.copies = {}

    def calls(self, operation):
        """How often the model calls an operation."""
        return sum(node.operation is operation for node in nodes(self.model))

    def only_reader(self, operation):
        """The one operation that reads an operation's output, called once, or `None`."""
        if self.calls(operation) != 1:
            return None
        reading = readers(self.model, operation)
        if len(reading) != 1 or reading[0] is self.model or self.calls(reading[0]) != 1:
            return None
        return reading[0]

    def copy(self, operation, **changes):
        """A copy of an operation with parts of its configuration changed, one for all its calls."""
        if id(operation) not in self.copies:
            if isinstance(operation, keras.layers.Lambda):
                raise ValueError(
                    f"{self.model.name!r} has the Lambda layer {operation.name!r}, which cannot be "
                    "copied without its code. Write it as a layer with "
                    "`register_keras_serializable`."
                )
            config = {**operation.get_config(), **changes}
            if isinstance(operation, keras.layers.Layer):
                config["dtype"] = "float32"
            self.copies[id(operation)] = operation, operation.__class__.from_config(config)
        return self.copies[id(operation)][1]

    def copy_weights(self):
        """Give the copies the originals' weights; those with other weights are left alone."""
        for operation, copy in self.copies.values():
            weights = getattr(operation, "weights", ())
            if weights and [w.shape for w in weights] == [w.shape for w in copy.weights]:
                copy.set_weights(operation.get_weights())
            if isinstance(copy, keras.layers.Normalization):
                copy.finalize_state()  # it computes with what it made of its weights


def with_weights(layer, weights, *args):
    """Call a new layer, which builds it, and set its weights; returns its output."""
    outputs = layer(*args)
    layer.set_weights(weights)
    return outputs
