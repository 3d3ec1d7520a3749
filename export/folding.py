"""The student as inference needs it: constants are computed once, linear parts are merged."""

import logging
from dataclasses import dataclass

import keras
import numpy as np

from letkd_keras.export.batch_norm_folding import affine_of, fold_batch_norms
from letkd_keras.export.comparison import compare, logits_of
from letkd_keras.export.images_and_labels import images_for
from letkd_keras.export.inverse_rms import InverseRMS
from letkd_keras.export.loading import load_student
from letkd_keras.functional.graph import is_called_once, only_reader
from letkd_keras.functional.graph_copy import copy_with, with_weights
from letkd_keras.functional.insertion import only_pooling
from letkd_keras.layers import KDLayer

log = logging.getLogger(__name__)

_TOLERANCE = 1e-4  # of a logit, relative to the largest logit


def fold(model, *, images=None):
    """Copy a student for inference, with fewer parameters and operations and the same logits.

    - In a KD layer, the normalization and scale of the templates and the batch normalization become
      one 1x1 convolution with bias. The normalization and scale of the values and alpha become one
      kernel. A layer with alpha 0 is removed.
    - If the output of a KD layer is only averaged over its locations, the responses are averaged
      first. If the classifier after it has fewer classes than there are channels, classifier and
      value kernel become one kernel [templates, classes].
    - Normalizations divide by the root mean square (`InverseRMS`), which can be quantized well.
    - Other batch normalizations are folded into the convolutions before them, or the classifier
      after them. Identity layers, dropout and random augmentations are removed.

    Folding a folded model again copies it.

    Args:
        model: What `export_student` accepts. It is not changed.
        images: Images [N, H, W, C], normalized, to compare the logits on; `None`: eight images of
            noise.

    Returns:
        A functional `keras.Model` in float32 for inference, of Keras' layers, `InverseRMS` and the
        student's other layers.

    Raises:
        ValueError: If it is not a functional model, or calls a KD layer more than once, or the
            images do not fit.
        ExportMismatch: If a logit of the folded model differs by more than 1e-4 of the largest
            logit (a `ValueError`).
    """
    student = load_student(model)
    folded = fold_kd_layers(fold_batch_norms(student))
    images = images_for(student, images)
    comparison = compare(logits_of(student, images), logits_of(folded, images))
    comparison.check(f"{student.name!r}, folded,", _TOLERANCE)
    log.info(
        "folded %s: %s parameters of %s, %s",
        student.name,
        f"{folded.count_params():,}",
        f"{student.count_params():,}",
        comparison,
    )
    return folded


@dataclass(frozen=True)
class Kernels:
    """The constants of a KD layer at inference, in float64.

    Attributes:
        templates: [C, K], for features divided by their RMS.
        bias: [K].
        values: [K, C], for responses divided by their RMS.
    """

    templates: np.ndarray
    bias: np.ndarray
    values: np.ndarray


def fold_kd_layers(model, kernels=None):
    """Fold the KD layers of a model, without a check.

    Args:
        model: Functional `keras.Model` without models inside.
        kernels: `Kernels` by layer name, to replace those of the layers.

    Returns:
        A functional model.
    """
    pooled = {}  # pooling layer or classifier -> what is to be added to its output

    def call(layer, call_copy, *args, **kwargs):
        if isinstance(layer, KDLayer):
            if not is_called_once(model, layer):
                raise ValueError(
                    f"`model` must call each KD layer once. Received: {layer.name!r}, called "
                    "more than once"
                )
            if layer.alpha == 0:
                return args[0]
            constants = (kernels or {}).get(layer.name) or kernels_of(layer)
            return _fold_kd_layer(layer, constants, model, pooled, args[0])
        outputs = call_copy(*args, **kwargs)
        if layer not in pooled:
            return outputs
        return keras.layers.Add(name=f"{layer.name}_sum")([outputs, pooled.pop(layer)])

    return copy_with(model, call, dtype="float32")


def _fold_kd_layer(layer, kernels, model, pooled, features):
    responses, inverse = _template_responses(layer, kernels, features)
    pooling = only_pooling(model, layer)
    if pooling is None:
        return _with_values(layer, kernels.values, features, responses, inverse)
    directions = keras.layers.Multiply(name=f"{layer.name}_directions")([responses, inverse])
    mean = keras.layers.GlobalAveragePooling2D(
        data_format=layer.data_format, keepdims=pooling.keepdims, name=f"{layer.name}_pool"
    )(directions)
    if pooling.keepdims:
        # On a map of one location a dense layer would be several operations in TFLite.
        pooled[pooling] = _pointwise(layer, kernels.values, mean, f"{layer.name}_values")
        return features
    target, values, name = pooling, kernels.values, f"{layer.name}_values"
    classifier = only_reader(model, pooling)
    if _is_linear(classifier) and classifier.units < values.shape[1]:
        target, name = classifier, f"{layer.name}_logits"
        values = values @ np.asarray(classifier.kernel, "float64")
    dense = keras.layers.Dense(values.shape[1], use_bias=False, name=name)
    pooled[target] = with_weights(dense, [values], mean)
    return features


def _with_values(layer, values, features, responses, inverse):
    """Features plus the values of each location."""
    mapped = _pointwise(layer, values, responses, f"{layer.name}_values")
    # One factor for each location: cheaper on the C channels of the values than on K responses.
    scaled = keras.layers.Multiply(name=f"{layer.name}_scaled_values")([mapped, inverse])
    return keras.layers.Add(name=f"{layer.name}_sum")([features, scaled])


def _pointwise(layer, kernel, inputs, name):
    """A 1x1 convolution by a kernel [channels, filters], in the data format of the layer."""
    convolution = keras.layers.Conv2D(
        kernel.shape[1], 1, use_bias=False, data_format=layer.data_format, name=name
    )
    return with_weights(convolution, [kernel[None, None]], inputs)


def _template_responses(layer, kernels, features):
    """Responses after ReLU with K channels, and the factor that normalizes each location."""
    axis = layer.channel_axis
    inverse = InverseRMS(axis, name=f"{layer.name}_inverse_rms")(features)
    directions = keras.layers.Multiply(name=f"{layer.name}_normalized")([features, inverse])
    convolution = keras.layers.Conv2D(
        len(kernels.bias),
        1,
        activation="relu",
        data_format=layer.data_format,
        name=f"{layer.name}_templates",
    )
    responses = with_weights(convolution, [kernels.templates[None, None], kernels.bias], directions)
    return responses, InverseRMS(axis, name=f"{layer.name}_responses_inverse_rms")(responses)


def kernels_of(layer):
    """Compute the `Kernels` of a built `KDLayer` with `alpha` above 0."""
    templates, values = (
        np.asarray(kernel, "float64") for kernel in (layer.template_kernel, layer.value_kernel)
    )
    factor, offset = affine_of(layer.batch_normalization)
    scale = float(np.asarray(layer.template_scale))
    templates = scale * factor * _unit_columns(templates) / np.sqrt(len(templates))
    scale = layer.alpha * float(np.asarray(layer.value_scale))
    values = scale * _unit_columns(values) / np.sqrt(len(values))
    return Kernels(templates, offset, values)


def _unit_columns(kernel):
    return kernel / np.maximum(np.linalg.norm(kernel, axis=0), 1e-12)


def _is_linear(layer):
    return type(layer) is keras.layers.Dense and layer.activation is keras.activations.linear
