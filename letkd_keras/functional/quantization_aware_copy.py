"""Students that compute as their integer file will, for training, and back."""

import logging

import keras

from letkd_keras.functional.graph import IDLE_AT_INFERENCE, as_functional, flatten, readers
from letkd_keras.functional.graph_copy import copy_of, copy_with, copy_without
from letkd_keras.functional.lora import without_lora
from letkd_keras.layers import ChannelShuffle, ChannelSplit, KDLayer
from letkd_keras.layers.fake_quantization import FAKE_QUANTIZED, FakeQuantization

log = logging.getLogger(__name__)

_ORIGINAL = {quantized: original for original, quantized in FAKE_QUANTIZED.items()}
_OWN_OPTIONS = ("weight_bits", "bits", "momentum_of_ranges")
# Their outputs have the values of their inputs, or fewer: the same scale represents them.
_MOVING = (
    *IDLE_AT_INFERENCE,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping2D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
    ChannelShuffle,
    ChannelSplit,
)


def quantization_aware(model, *, weight_bits=8, bits=8, momentum=0.99):
    """Copy a student so that it computes as its integer file will.

    The copy is trained like the student, by any distiller or alone, and its weights adapt to the
    rounding. Kernels are rounded with a scale for each output channel, the outputs of layers with
    one range each, a moving average (`FakeQuantization`). What a converter merges is rounded once:
    a convolution with the batch normalization and ReLU after it, a sum with its ReLU. The image and
    the logits are not rounded. In a KD layer both kernels, the normalized features, the responses
    and the values are rounded.

    Train a student in float first, then the copy for a few epochs at a small learning rate.

    Args:
        model: Functional or sequential `keras.Model`; it is not changed.
        weight_bits: Number of bits of the kernels of convolutions, dense and KD layers, from 2 to
            16.
        bits: Number of bits of the outputs of layers, likewise.
        momentum: Share of the old range that a step keeps, at least 0 and less than 1.

    Returns:
        A functional model of copied layers with the same names and weights.
        `without_fake_quantization` makes a plain student of it again, and so does every export.

    Raises:
        ValueError: If the model is not functional, is a copy of this kind already, or a number is
            out of its range.
    """
    model = as_functional(model)
    flat = flatten(without_lora(model))
    if is_quantization_aware(flat):
        raise ValueError(
            "`model` must be a student without fake quantization. "
            f"Received: model={model.name!r}, which has it already"
        )

    def copy(layer):
        kind = FAKE_QUANTIZED.get(type(layer))
        if kind is None:
            return copy_of(layer)
        options = {"weight_bits": weight_bits}
        if isinstance(layer, KDLayer):
            options |= {"bits": bits, "momentum_of_ranges": momentum}
        return copy_of(layer, kind, **options)

    others = [layer for layer in flat.layers if type(layer) not in FAKE_QUANTIZED]
    exact = [x.name for x in others if any(w.name.endswith("kernel") for w in x.weights)]
    if exact:
        log.warning("The kernels of these layers are not rounded: %s", ", ".join(exact))
    ranges = {}

    def call(layer, call_copy, *args, **kwargs):
        outputs = call_copy(*args, **kwargs)
        if not _is_rounded(flat, layer, outputs):
            return outputs
        if layer not in ranges:
            ranges[layer] = FakeQuantization(bits, momentum, name=f"{layer.name}_range")
        return ranges[layer](outputs)

    return copy_with(flat, call, copy)


def without_fake_quantization(model):
    """Copy a student of `quantization_aware` as a plain student, with its trained weights.

    Args:
        model: Functional `keras.Model`.

    Returns:
        A functional model of the original layers; the model itself if it has no fake quantization.
    """
    flat = flatten(model)
    if not is_quantization_aware(flat):
        return model

    def copy(layer):
        kind, config = _ORIGINAL.get(type(layer)), layer.get_config()
        if kind is None:
            return copy_of(layer)
        return kind.from_config({name: config[name] for name in config if name not in _OWN_OPTIONS})

    return copy_without(flat, lambda x: isinstance(x, FakeQuantization), copy_fn=copy)


def is_quantization_aware(model):
    """Whether a model has layers of `quantization_aware`."""
    return any(isinstance(layer, (FakeQuantization, *_ORIGINAL)) for layer in model.operations)


def _is_rounded(model, layer, outputs):
    """Whether a file has the outputs of a layer, as integers of a range of their own."""
    is_tensor = isinstance(outputs, keras.KerasTensor)
    if not is_tensor or not keras.backend.is_float_dtype(outputs.dtype):
        return False
    if isinstance(layer, (*_MOVING, KDLayer)):  # a KD layer rounds its output itself
        return False
    reading = readers(model, layer)
    if model in reading:
        return False
    followed = all(isinstance(reader, keras.layers.BatchNormalization) for reader in reading)
    if type(layer) in FAKE_QUANTIZED and followed:
        return False
    return not all(map(_is_relu, reading))


def _is_relu(operation):
    """Whether an operation is a ReLU that a converter merges with what is before it."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation in (keras.activations.relu, keras.activations.relu6)
    # Keras has no public names for the classes of `keras.ops.relu` and `keras.activations.relu`.
    return type(operation).__name__ in ("ReLU", "Relu", "Relu6") and not (
        getattr(operation, "negative_slope", 0) or getattr(operation, "threshold", 0)
    )
