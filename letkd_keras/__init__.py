"""letKD for Keras 3: knowledge distillation through a layer that the student keeps."""

from letkd_keras import models, optimizers
from letkd_keras.distillers import KD, Distiller, LetKD
from letkd_keras.insertion import insert_kd_layers
from letkd_keras.layers import BatchNormalization, IntermediateTargets, KDLayer, PenultimateTargets
from letkd_keras.losses import TemplateKLDivergence

__version__ = "0.1.0"

__all__ = [
    "KD",
    "BatchNormalization",
    "Distiller",
    "IntermediateTargets",
    "KDLayer",
    "LetKD",
    "PenultimateTargets",
    "TemplateKLDivergence",
    "insert_kd_layers",
    "models",
    "optimizers",
]
