"""The folded student as a tf_keras model, which tensorflow-model-optimization needs.

Its `quantize_model` and `prune_low_magnitude` refuse a Keras 3 model, and its `cluster_weights`
returns `None`. tf_keras is imported inside the functions, since it need not be installed.
"""

import contextlib
import importlib
import os
import sys

import keras
import numpy as np

from letkd_keras.export.input_scaling import PIXEL_SCALING
from letkd_keras.export.inverse_rms import InverseRMS
from letkd_keras.functional.graph import run
from letkd_keras.layers.channel_shuffle import ChannelShuffle, ChannelSplit
from letkd_keras.layers.grouped_convolution import GroupedConv2D
from letkd_keras.layers.torch_batch_normalization import TorchBatchNormalization

# Settings that both Keras versions understand. Initializers and the like are not needed here.
_CONVOLUTION = ("strides", "padding", "data_format", "dilation_rate", "activation", "use_bias")
_POOLING = ("pool_size", "strides", "padding", "data_format")
_NORMALIZATION = ("axis", "epsilon", "center", "scale")
_COUNTERPARTS = {
    keras.layers.Conv2D: ("Conv2D", ("filters", "kernel_size", "groups", *_CONVOLUTION)),
    GroupedConv2D: ("Conv2D", ("filters", "kernel_size", "groups", *_CONVOLUTION)),
    keras.layers.DepthwiseConv2D: (
        "DepthwiseConv2D",
        ("kernel_size", "depth_multiplier", *_CONVOLUTION),
    ),
    keras.layers.Dense: ("Dense", ("units", "activation", "use_bias")),
    keras.layers.BatchNormalization: ("BatchNormalization", _NORMALIZATION),
    TorchBatchNormalization: ("BatchNormalization", _NORMALIZATION),
    keras.layers.ReLU: ("ReLU", ("max_value", "negative_slope", "threshold")),
    keras.layers.Activation: ("Activation", ("activation",)),
    keras.layers.Add: ("Add", ()),
    keras.layers.Multiply: ("Multiply", ()),
    keras.layers.Concatenate: ("Concatenate", ("axis",)),
    keras.layers.ZeroPadding2D: ("ZeroPadding2D", ("padding", "data_format")),
    keras.layers.MaxPooling2D: ("MaxPooling2D", _POOLING),
    keras.layers.AveragePooling2D: ("AveragePooling2D", _POOLING),
    keras.layers.GlobalAveragePooling2D: ("GlobalAveragePooling2D", ("data_format", "keepdims")),
    keras.layers.Flatten: ("Flatten", ("data_format",)),
    keras.layers.Reshape: ("Reshape", ("target_shape",)),
    keras.layers.Rescaling: ("Rescaling", ("scale", "offset")),
    # Layers of this package, in `layers`.
    InverseRMS: ("InverseRMS", ("axis", "floor")),
    ChannelShuffle: ("ChannelShuffle", ("groups",)),
    ChannelSplit: ("ChannelSplit", ()),
}
# Activations of Keras that tf_keras has, and what it calls them.
_ACTIVATIONS = {
    **{
        name: name
        for name in (
            *("elu", "exponential", "gelu", "linear", "mish", "relu", "selu", "sigmoid"),
            *("softmax", "softplus", "softsign", "tanh"),
        )
    },
    "silu": "swish",
}
# Those that are a layer of this package there.
_ACTIVATION_LAYERS = {"hard_sigmoid": "HardSigmoid", "hard_silu": "HardSilu"}


def import_tfmot():
    """Import tfmot without its side effects on the process.

    Returns:
        `(tf_keras, tensorflow_model_optimization)`.

    Raises:
        ImportError: If one of them is not installed.
    """
    variable = "TF_USE_LEGACY_KERAS"
    before = os.environ.get(variable)
    if "tensorflow_model_optimization" not in sys.modules:
        # keras_cv, which recipes may need later, cannot be imported after tfmot.
        with contextlib.suppress(ImportError):
            importlib.import_module("keras_cv")
    try:
        import tensorflow_model_optimization as tfmot
        import tf_keras
    finally:
        # Child processes would inherit it, and keras_cv would build legacy layers there.
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before
    return tf_keras, tfmot


def to_tf_keras(model):
    """Rebuild a folded model in tf_keras, layer by layer, with the same weights.

    Args:
        model: A model that `letkd_keras.export.fold` returned.

    Returns:
        A functional `tf_keras.Model` that computes the same. Its batch normalizations are frozen
        before tfmot wraps them: of a wrapped one, the scale and offset would still be trained. The
        normalization of pixels is frozen, too. All other layers are trained, also those that are
        frozen in the student: tfmot changes their kernels as well.

    Raises:
        ValueError: If a layer or its activation has no counterpart; the message names it.
    """
    import tf_keras

    from letkd_keras.export.tfmot.layers import CUSTOM

    rebuilt = {}

    def rebuild(layer, args):
        if isinstance(layer, keras.layers.Normalization):
            scaling = _normalization(layer)
        else:
            scaling = _constant_operation(layer, args)
        if scaling:
            return tf_keras.layers.Rescaling(**scaling, name=layer.name)
        if type(layer) not in _COUNTERPARTS:
            raise ValueError(
                f"`model` must consist of layers that have a counterpart in tf_keras: "
                f"{', '.join(sorted(kind.__name__ for kind in _COUNTERPARTS))}. "
                f"Received: no counterpart of {layer.name!r}, a {type(layer).__name__}"
            )
        if isinstance(layer, ChannelShuffle | ChannelSplit):
            _check_channels_last(layer)
        name, keys = _COUNTERPARTS[type(layer)]
        config = layer.get_config()
        options = {key: config[key] for key in keys}
        if "activation" in options:
            activation = options["activation"]
            is_layer = isinstance(activation, str) and activation in _ACTIVATION_LAYERS
            if name == "Activation" and is_layer:
                return CUSTOM[_ACTIVATION_LAYERS[activation]](name=layer.name)
            options["activation"] = _activation(layer, activation)
        if layer.weights:
            options["trainable"] = name != "BatchNormalization" and layer.name != PIXEL_SCALING
        kind = CUSTOM.get(name) or getattr(tf_keras.layers, name)
        return kind(name=layer.name, **options)

    def call(layer, *args, **kwargs):
        if layer.name not in rebuilt:
            rebuilt[layer.name] = rebuild(layer, args)
        outputs = rebuilt[layer.name](*(arg for arg in args if not isinstance(arg, int | float)))
        if rebuilt[layer.name].weights:
            rebuilt[layer.name].set_weights(layer.get_weights())
        return outputs

    image = tf_keras.Input(model.input_shape[1:], name="image")
    outputs = run(model, image, call)
    return tf_keras.Model(image, keras.tree.flatten(outputs)[0], name=model.name)


def _constant_operation(operation, args):
    """Options of the `Rescaling` that is a sum or product of a tensor and a number, or `None`."""
    numbers = [arg for arg in args if isinstance(arg, int | float)]
    if isinstance(operation, keras.layers.Layer) or len(numbers) != 1:
        return None
    options = {"Add": {"scale": 1.0, "offset": numbers[0]}, "Multiply": {"scale": numbers[0]}}
    return options.get(type(operation).__name__)


def _normalization(layer):
    """Options of the `Rescaling` that a `Normalization` is."""
    mean = np.asarray(layer.mean, "float64")
    std = np.maximum(np.sqrt(np.asarray(layer.variance, "float64")), keras.config.epsilon())
    scale, offset = (std, mean) if layer.invert else (1 / std, -mean / std)
    return {"scale": scale.tolist(), "offset": offset.tolist()}


def _activation(layer, name):
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise ValueError(
            f"`model` must have activations that have a counterpart in tf_keras: "
            f"{', '.join(_ACTIVATIONS)}. Received: {name!r} of {layer.name!r}"
        )
    return _ACTIVATIONS[name]


def _check_channels_last(layer):
    if layer.data_format != "channels_last":
        raise ValueError(
            f"`data_format` must be 'channels_last' here. Received: {layer.data_format!r} of "
            f"{layer.name!r}"
        )
