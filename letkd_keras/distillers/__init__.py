"""Distilling models: `compile` and `fit` train a student under a teacher."""

from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.dkd import DKD
from letkd_keras.distillers.kd import KD
from letkd_keras.distillers.letkd import LetKD
from letkd_keras.distillers.teacher_distiller import TeacherDistiller

__all__ = ["DKD", "KD", "Distiller", "LetKD", "TeacherDistiller"]
