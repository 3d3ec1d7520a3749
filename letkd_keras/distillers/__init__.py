"""Distilling models: `compile` and `fit` train a student under a teacher."""

from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.kd import KD
from letkd_keras.distillers.letkd import LetKD

__all__ = ["KD", "Distiller", "LetKD"]
