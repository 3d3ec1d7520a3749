"""The student with its KD layers, without teacher and training code, in formats that ship."""

from letkd_keras.export.bundle import export_bundle
from letkd_keras.export.folding import fold
from letkd_keras.export.inverse_rms import InverseRMS
from letkd_keras.export.options import ExportOptions
from letkd_keras.export.reduction import Reduction, fine_tune, reduce_templates
from letkd_keras.export.student import Exported, export_student
from letkd_keras.export.verification import ExportMismatch

__all__ = [
    "ExportMismatch",
    "ExportOptions",
    "Exported",
    "InverseRMS",
    "Reduction",
    "export_bundle",
    "export_student",
    "fine_tune",
    "fold",
    "reduce_templates",
]
