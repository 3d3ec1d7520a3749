"""The table of formats: one row a name."""

from collections.abc import Callable
from dataclasses import dataclass

from letkd_keras.export.onnx_file import write_onnx
from letkd_keras.export.savedmodel import write_savedmodel
from letkd_keras.export.tflite import write_dynamic_range, write_float16, write_int8, write_tflite


@dataclass(frozen=True)
class Format:
    """A form a student ships in.

    Attributes:
        file_name: File or folder it is written to.
        runtime: What runs it, as `reload.py` names it.
        write: `write(student, path, options)`.
        tolerance: Largest difference of a logit from the student's, relative to the largest logit;
            `None` where quantisation moves logits and only their order is asked for.
        min_agreement: Smallest share of real images that must be given the student's top-1 class.
        needs_calibration: Whether it needs training images.
    """

    file_name: str
    runtime: str
    write: Callable
    tolerance: float | None
    min_agreement: float
    needs_calibration: bool = False


def _compression(name):
    """A writer of `compression.py`, imported when it is used: it needs tf_keras and tfmot."""

    def write(student, path, options):
        from letkd_keras.export import compression

        getattr(compression, f"write_{name}")(student, path, options)

    return write


_aware, _pruned, _clustered = map(_compression, ("quantization_aware", "pruned", "clustered"))

# Those that are trained on are other networks afterwards, as often better as worse where the
# student hesitates; their accuracy tells more than their agreement.
_FORMATS = {
    "savedmodel": Format("savedmodel", "savedmodel", write_savedmodel, 1e-4, 1.0),
    "tflite": Format("student.tflite", "tflite", write_tflite, 1e-4, 1.0),
    "tflite-float16": Format("student_float16.tflite", "tflite", write_float16, 0.02, 0.99),
    "tflite-dynamic": Format("student_dynamic.tflite", "tflite", write_dynamic_range, None, 0.98),
    "tflite-int8": Format("student_int8.tflite", "tflite", write_int8, None, 0.98, True),
    "tflite-qat": Format("student_qat.tflite", "tflite", _aware, None, 0.98, True),
    "tflite-pruned": Format("student_pruned.tflite", "tflite", _pruned, None, 0.98, True),
    "tflite-clustered": Format("student_clustered.tflite", "tflite", _clustered, None, 0.98, True),
    "onnx": Format("student.onnx", "onnx", write_onnx, 1e-4, 1.0),
}


def names():
    """Names of the formats, in the order of the table."""
    return list(_FORMATS)


def find(name):
    """The `Format` of a name.

    Raises:
        ValueError: If there is none, listing those that exist.
    """
    if name not in _FORMATS:
        raise ValueError(
            f"`format` must be one of {', '.join(_FORMATS)}. Received: format={name!r}"
        )
    return _FORMATS[name]
