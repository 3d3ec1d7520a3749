"""Distillers: models whose `compile` and `fit` train a student with a teacher."""

from letkd_keras.distillers.at import AT
from letkd_keras.distillers.crd import CRD
from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.dkd import DKD
from letkd_keras.distillers.fitnet import FitNet
from letkd_keras.distillers.hinted_letkd import HintedLetKD
from letkd_keras.distillers.kd import KD
from letkd_keras.distillers.letkd import LetKD
from letkd_keras.distillers.simkd import SimKD
from letkd_keras.distillers.sp import SP
from letkd_keras.distillers.supervised import Supervised
from letkd_keras.distillers.vid import VID

__all__ = [
    "AT",
    "CRD",
    "DKD",
    "KD",
    "SP",
    "VID",
    "Distiller",
    "FitNet",
    "HintedLetKD",
    "LetKD",
    "SimKD",
    "Supervised",
]
