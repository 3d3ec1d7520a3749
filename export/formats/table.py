"""The table of formats. Importing it is fast: a format's writer is imported when it is used."""

import importlib
import importlib.util
from dataclasses import dataclass

from letkd_keras.log_file import stderr_to_log


@dataclass(frozen=True)
class Format:
    """A format that a student is exported to.

    Attributes:
        file_name: Name of the file or folder.
        runtime: What runs it, as `reload.py` names it.
        writer: `"module:function"` below `letkd_keras.export`; see `write`.
        tolerance: Largest difference of a logit from the student's, relative to the largest logit.
            `None` where quantization changes the logits, so that only their order is compared.
        min_agreement: Smallest share of real images for which artifact and student must have the
            same top-1 class.
        needs_calibration: Whether the writer needs training images.
        is_quantized: Whether it is a TFLite file of the same network in fewer bits.
        requires: Package that `export` does not install and the writer needs, or `None`.
    """

    file_name: str
    runtime: str
    writer: str
    tolerance: float | None
    min_agreement: float
    needs_calibration: bool = False
    is_quantized: bool = False
    requires: str | None = None

    def write(self, student, path, options):
        """Write a student in this format.

        Args:
            student: Functional `keras.Model` from images to logits.
            path: File or folder to write.
            options: `ExportOptions`.

        Raises:
            ImportError: If the format needs a package that is not installed.
            ValueError: If the options lack something that the format needs.
        """
        module, function = self.writer.split(":")
        # Converters write much to stderr that concerns nobody.
        with stderr_to_log():
            writer = getattr(importlib.import_module(f"letkd_keras.export.{module}"), function)
            writer(student, path, options)


def _tflite(name, function, tolerance, min_agreement, **options):
    writer = f"formats.tflite:{function}"
    return Format(f"student{name}.tflite", "tflite", writer, tolerance, min_agreement, **options)


def _trained(name, function):
    # Such a student was trained further and is another network. It has the accuracy of the
    # original, but disagrees with it where the original itself is unsure.
    writer = f"tfmot.compression:{function}"
    return Format(f"student_{name}.tflite", "tflite", writer, None, 0.98, True)


_FORMATS = {
    "savedmodel": Format(
        "savedmodel", "savedmodel", "formats.savedmodel:write_savedmodel", 1e-4, 1.0
    ),
    "tflite": _tflite("", "write_tflite", 1e-4, 1.0),
    "tflite-float16": _tflite("_float16", "write_float16", 0.02, 0.99),
    "tflite-dynamic": _tflite("_dynamic", "write_dynamic_range", None, 0.98, is_quantized=True),
    "tflite-int8": _tflite(
        "_int8", "write_int8", None, 0.98, needs_calibration=True, is_quantized=True
    ),
    "tflite-int16x8": _tflite(
        "_int16x8", "write_int16x8", None, 0.99, needs_calibration=True, is_quantized=True
    ),
    "tflite-int4": Format(
        "student_int4.tflite",
        "tflite",
        "formats.litert_quantizer:write_int4",
        None,
        0.95,
        is_quantized=True,
        requires="litert_quantizer",
    ),
    "tflite-qat": _trained("qat", "write_quantization_aware"),
    "tflite-pruned": _trained("pruned", "write_pruned"),
    "tflite-clustered": _trained("clustered", "write_clustered"),
    "onnx": Format("student.onnx", "onnx", "formats.onnx_file:write_onnx", 1e-4, 1.0),
}


def names():
    """Names of the formats, in the order of the table."""
    return list(_FORMATS)


def find(name, argument="format"):
    """Find a format by its name.

    Args:
        name: The name.
        argument: Name of the argument for the error.

    Returns:
        `Format`.

    Raises:
        ValueError: If there is no such format. The message lists those that exist.
    """
    if name not in _FORMATS:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(_FORMATS)}. Received: {argument}={name!r}"
        )
    return _FORMATS[name]


def expand(names_or_all, argument="formats"):
    """List the names of formats, each once.

    `["all"]` becomes all names, except those of formats whose additional package is not installed.

    Raises:
        ValueError: If one is unknown, or there is none.
    """
    if isinstance(names_or_all, str) or not len(names_or_all):
        raise ValueError(
            f"`{argument}` must be a list of names of formats. Received: "
            f"{argument}={names_or_all!r}"
        )
    if list(names_or_all) == ["all"]:
        return [name for name, form in _FORMATS.items() if _is_available(form)]
    for name in names_or_all:
        find(name, argument)
    return list(dict.fromkeys(names_or_all))


def _is_available(form):
    return form.requires is None or importlib.util.find_spec(form.requires) is not None
