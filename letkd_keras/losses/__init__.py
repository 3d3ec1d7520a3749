"""Losses of the KD layer's templates, of logits against the teacher's, and of smoothed labels."""

from letkd_keras.losses.dist import DISTLoss
from letkd_keras.losses.dkd import DKDLoss
from letkd_keras.losses.kd import KDLoss
from letkd_keras.losses.logit_loss_table import LOGIT_LOSSES, LogitLossRow, logit_loss
from letkd_keras.losses.logit_standardization import standardize_logits
from letkd_keras.losses.rld import RLDLoss
from letkd_keras.losses.smoothed_crossentropy import SmoothedCrossentropy
from letkd_keras.losses.template_kl import (
    TemplateKLDivergence,
    inner_product,
    negentropy,
)
from letkd_keras.losses.wttm import WTTMLoss

__all__ = [
    "LOGIT_LOSSES",
    "DISTLoss",
    "DKDLoss",
    "KDLoss",
    "LogitLossRow",
    "RLDLoss",
    "SmoothedCrossentropy",
    "TemplateKLDivergence",
    "WTTMLoss",
    "inner_product",
    "logit_loss",
    "negentropy",
    "standardize_logits",
]
