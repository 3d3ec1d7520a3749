"""Layers of the method: the KD layer, the teacher's soft targets, PyTorch's batch normalisation."""

from letkd_keras.layers.batch_normalization import BatchNormalization
from letkd_keras.layers.kd_layer import KDLayer
from letkd_keras.layers.soft_targets import IntermediateTargets, PenultimateTargets

__all__ = ["BatchNormalization", "IntermediateTargets", "KDLayer", "PenultimateTargets"]
