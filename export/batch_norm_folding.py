"""Batch normalizations folded into the convolutions before them."""

import keras
import numpy as np

from letkd_keras.export.rewriting import rewrite, with_weights
from letkd_keras.functional.graph import layers_inside
from letkd_keras.layers.grouped_convolution import GroupedConv2D

_CONVOLUTIONS = (
    keras.layers.Conv2D,
    GroupedConv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
)
# Layers that do nothing at inference.
_IDLE = (
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ActivityRegularization,
)


def fold_batch_norms(model):
    """Copy a model with its batch normalizations folded, and without layers idle at inference.

    A batch normalization is folded into the convolution or dense layer before it if that has a
    linear activation and nothing else reads its output. Others, such as those after the sums of
    pre-activation networks, are kept.

    Args:
        model: Functional `keras.Model` without models inside.

    Returns:
        A functional model in float32 that computes the same at inference.
    """
    folded = set()

    def replace(layer, rewriter, *args, **kwargs):
        if type(layer) in _IDLE or layer in folded:
            return args[0]
        following = rewriter.only_reader(layer)
        if not _folds_into(following, layer):
            return None
        folded.add(following)
        config = {**layer.get_config(), "use_bias": True, "dtype": "float32"}
        kernel, *bias = (np.asarray(weight, "float64") for weight in layer.get_weights())
        factor, offset = affine_of(following)
        # A depthwise kernel [kh, kw, C, m] has its outputs on the last two axes.
        shape = kernel.shape[-2:] if isinstance(layer, keras.layers.DepthwiseConv2D) else (-1,)
        weights = [kernel * factor.reshape(shape), (bias[0] if bias else 0) * factor + offset]
        return with_weights(type(layer).from_config(config), weights, *args)

    return rewrite(model, replace)


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
    """Names of the batch normalizations whose statistics are still the initial ones."""
    layers = [layer for layer in layers_inside(model) if _is_batch_norm(layer)]
    return [
        layer.name
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
    data_format = getattr(layer, "data_format", "channels_last")
    rank = len(batch_norm.input.shape)
    channel_axis = rank - 1 if data_format == "channels_last" else 1
    axis = batch_norm.axis if isinstance(batch_norm.axis, int) else batch_norm.axis[0]
    return axis % rank == channel_axis


def _is_batch_norm(layer):
    return isinstance(layer, keras.layers.BatchNormalization)
