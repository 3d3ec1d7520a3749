"""Export of a student with its KD layers, without teacher and training code."""

from letkd_keras.lazy_names import lazy_names

# Name -> module that defines it. The names are imported when they are first used, so that a
# command's `--help` does not wait for TensorFlow.
_PUBLIC = {
    "Comparison": "comparison",
    "ExportMismatch": "comparison",
    "ExportOptions": "options",
    "Exported": "artifact",
    "InverseRMS": "inverse_rms",
    "Reduction": "reduction",
    "export_bundle": "student",
    "export_student": "student",
    "fine_tune": "reduction",
    "fold": "folding",
    "reduce_templates": "reduction",
}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)
