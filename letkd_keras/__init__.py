"""letKD for Keras 3: knowledge distillation through a layer that the student keeps."""

from letkd_keras import models, optimizers
from letkd_keras.distillers import KD, Distiller, LetKD
from letkd_keras.insertion import insert_kd_layers
from letkd_keras.layers import BatchNormalization, IntermediateTargets, KDLayer, PenultimateTargets
from letkd_keras.losses import TemplateKLDivergence
from letkd_keras.prototypes import Prototypes, fit_prototypes

__version__ = "0.1.0"

__all__ = [
    "KD",
    "BatchNormalization",
    "Distiller",
    "IntermediateTargets",
    "KDLayer",
    "LetKD",
    "PenultimateTargets",
    "Prototypes",
    "TemplateKLDivergence",
    "fit_prototypes",
    "insert_kd_layers",
    "models",
    "optimizers",
]
