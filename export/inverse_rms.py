import keras
import numpy as np
from keras import ops

from letkd_keras import ranges
from letkd_keras.functional.graph import output_of
from letkd_keras.functional.graph_copy import copy_of, copy_with

# Share of the locations other than zeros whose mean square may be below a calibrated floor.
_SHARE = 0.01


@keras.saving.register_keras_serializable("letkd_keras")
class InverseRMS(keras.layers.Layer):
    """One over the root mean square along an axis, kept as a dimension of size 1.

    Multiplying by it normalizes vectors to the length sqrt(n) instead of 1. With 1 / sqrt(n) in the
    next kernel this is l2 normalization, but the values are about 1 for every n, which suits
    integers of eight bits. In l2-normalized vectors of 4096 elements values are about 1/64, and
    converters that recognize l2 normalization give it the fixed step 1/128.

    Args:
        axis: Axis of the vectors.
        floor: Smallest mean square; smaller ones are replaced by it. A vector of zeros has the
            factor 1 / sqrt(floor), which must not be too large for quantization.
        **kwargs: Keras' layer arguments.

    Call arguments:
        inputs: Tensor of any shape.
    """

    def __init__(self, axis=-1, floor=1e-12, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.floor = ranges.positive_number.check(floor, "floor")

    def call(self, inputs):
        # A product, not `square`: TFLite has no square of integers.
        mean_square = ops.mean(inputs * inputs, axis=self.axis, keepdims=True)
        return ops.rsqrt(ops.maximum(mean_square, self.floor))

    def get_config(self):
        return {**super().get_config(), "axis": self.axis, "floor": self.floor}


def with_calibrated_floors(model, images):
    """Copy a folded model with floors of its `InverseRMS` layers that suit quantization.

    Eight bits must represent all factors that occur. A location of zeros, common after a ReLU,
    would have the factor 1e6, so that all other factors would be rounded to 0. With a higher floor
    its factor is among the others, and its normalized values are still zeros.

    Args:
        model: Functional `keras.Model`.
        images: Calibration images, normalized.

    Returns:
        A functional model.
    """
    layers = [layer for layer in model.layers if isinstance(layer, InverseRMS)]
    if not layers:
        return model
    probe = keras.Model(model.inputs[0], [output_of(model, layer) for layer in layers])
    outputs = keras.tree.flatten(probe.predict(images, verbose=0))
    floors = {}
    for layer, factors in zip(layers, outputs, strict=True):
        squares = 1 / np.square(np.asarray(factors, "float64")).ravel()
        squares = squares[squares > 2 * layer.floor]
        if len(squares):
            floors[layer.name] = float(np.quantile(squares, _SHARE))
    return _with_floors(model, floors)


def with_float16_floors(model):
    """Copy a folded model with floors of its `InverseRMS` layers that float16 can represent.

    The default floor is 0 in float16. The factor of a location of zeros would be infinite, and the
    normalized values not a number.

    Args:
        model: Functional `keras.Model`.

    Returns:
        A functional model.
    """
    smallest = float(np.finfo("float16").tiny)
    layers = [layer for layer in model.layers if isinstance(layer, InverseRMS)]
    return _with_floors(model, {layer.name: max(layer.floor, smallest) for layer in layers})


def _with_floors(model, floors):
    """A copy in which layers have other floors, by their names."""
    if not floors:
        return model

    def copy(layer, **changes):
        if layer.name in floors:
            changes["floor"] = floors[layer.name]
        return copy_of(layer, **changes)

    return copy_with(model, copy_fn=copy, dtype="float32")
