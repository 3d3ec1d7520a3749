"""Batch normalizations folded into the convolutions and dense layers next to them."""

import keras
import numpy as np

from letkd_keras.export.input_scaling import is_augmentation
from letkd_keras.functional.graph import IDLE_AT_INFERENCE, layers_inside, only_reader
from letkd_keras.functional.graph_copy import copy_of, copy_with, copy_without, with_weights
from letkd_keras.layers.grouped_convolution import GroupedConv2D

_CONVOLUTIONS = (
    keras.layers.Conv2D,
    GroupedConv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
)


def fold_batch_norms(model):
    """Copy a model with its batch normalizations folded, and without layers idle at inference.

    A batch normalization is folded into the convolution or dense layer before it if that has a
    linear activation and nothing else reads its output, or into the dense layer after it if nothing
    else reads the normalized features. Others, such as those after the sums of pre-activation
    networks, are kept.

    Args:
        model: Functional `keras.Model` without models inside.

    Returns:
        A functional model in float32 that computes the same at inference.
    """
    if any(map(_is_idle, model.layers)):
        model = copy_without(model, _is_idle, dtype="float32")
    folded, before = set(), {}  # before: dense layer -> batch normalization to fold into it

    def call(layer, call_copy, *args, **kwargs):
        if layer in folded:
            return args[0]
        following = only_reader(model, layer)
        if type(following) is keras.layers.Dense and _normalizes_last_axis(layer):
            before[following] = layer
            return args[0]
        folds_next = _folds_into(following, layer)
        if not folds_next and layer not in before:
            return call_copy(*args, **kwargs)
        kernel, *bias = (np.asarray(weight, "float64") for weight in layer.get_weights())
        bias = bias[0] if bias else 0
        if layer in before:
            factor, offset = affine_of(before[layer])
            kernel, bias = kernel * factor[:, None], bias + offset @ kernel
        if folds_next:
            folded.add(following)
            factor, offset = affine_of(following)
            # A depthwise kernel [kh, kw, C, m] has its outputs on the last two axes.
            shape = kernel.shape[-2:] if isinstance(layer, keras.layers.DepthwiseConv2D) else (-1,)
            kernel, bias = kernel * factor.reshape(shape), bias * factor + offset
        return with_weights(copy_of(layer, use_bias=True, dtype="float32"), [kernel, bias], *args)

    return copy_with(model, call, dtype="float32")


def _is_idle(layer):
    return type(layer) in IDLE_AT_INFERENCE or is_augmentation(layer)


def affine_of(batch_norm):
    """Factor and offset, float64 [C], of a batch normalization at inference."""
    mean, variance = (
        np.asarray(weight, "float64")
        for weight in (batch_norm.moving_mean, batch_norm.moving_variance)
    )
    factor = 1 / np.sqrt(variance + batch_norm.epsilon)
    if batch_norm.scale:
        factor = factor * np.asarray(batch_norm.gamma, "float64")
    offset = -mean * factor
    if batch_norm.center:
        offset = offset + np.asarray(batch_norm.beta, "float64")
    return factor, offset


def untrained_batch_norms(model):
    """Names of the batch normalizations whose statistics are still the initial ones.

    One inside a KD layer has the names of both: `"kd_penultimate/batch_normalization"`.
    """
    layers = [layer for layer in layers_inside(model) if _is_batch_norm(layer)]
    return [
        layer.moving_mean.path.rpartition("/")[0]
        for layer in layers
        if layer.built
        and not np.any(np.asarray(layer.moving_mean))
        and np.all(np.asarray(layer.moving_variance) == 1)
    ]


def _folds_into(batch_norm, layer):
    if not (_is_batch_norm(batch_norm) and type(layer) in _CONVOLUTIONS):
        return False
    if layer.activation is not keras.activations.linear:
        return False
    # A dense layer has its outputs last whatever the data format.
    if getattr(layer, "data_format", "channels_last") == "channels_last":
        return _normalizes_last_axis(batch_norm)
    return _axis_of(batch_norm) == 1


def _normalizes_last_axis(layer):
    return _is_batch_norm(layer) and _axis_of(layer) == len(layer.input.shape) - 1


def _axis_of(batch_norm):
    return batch_norm.axis % len(batch_norm.input.shape)


def _is_batch_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization)
