"""Prototypes: what a teacher's features look like. Fitted once, they supervise any student."""

from letkd_keras.prototypes.fit import fit_prototypes
from letkd_keras.prototypes.prototypes import (
    IntermediatePrototypes,
    PenultimatePrototypes,
    Prototypes,
)
from letkd_keras.prototypes.steps import remove_workdir

__all__ = [
    "IntermediatePrototypes",
    "PenultimatePrototypes",
    "Prototypes",
    "fit_prototypes",
    "remove_workdir",
]
