"""The offline stage: what a teacher's features look like, fitted once, used for any student."""

from letkd_keras.prototypes.fitting import fit_prototypes
from letkd_keras.prototypes.prototype_fit import PrototypeFit
from letkd_keras.prototypes.prototypes import (
    IntermediatePrototypes,
    PenultimatePrototypes,
    Prototypes,
)

__all__ = [
    "IntermediatePrototypes",
    "PenultimatePrototypes",
    "PrototypeFit",
    "Prototypes",
    "fit_prototypes",
]
