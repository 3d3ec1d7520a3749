"""Layers of the method: the KD layer, the teacher's soft targets, PyTorch's batch normalisation."""

from letkd_keras.layers.batch_normalization import BatchNormalization
from letkd_keras.layers.kd_layer import KDLayer

__all__ = ["BatchNormalization", "KDLayer"]
