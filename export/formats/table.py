"""The table of formats. Importing it is fast: a format's writer is imported when it is used."""

import importlib
import importlib.util
import re
from dataclasses import dataclass

from letkd_keras.commands.log_file import stderr_to_log

# Share of the student's accuracy with which a file is accepted whatever its agreement is.
_MIN_ACCURACY = 0.99
# Extra of this package that installs a package.
_EXTRAS = {
    **dict.fromkeys(("ai_edge_litert", "onnx", "onnxruntime", "tf2onnx"), "export"),
    **dict.fromkeys(("tensorflow_model_optimization", "tf_keras"), "export"),
    "litert_quantizer": "quantize",
}
_RUNTIMES = {"savedmodel": (), "tflite": ("ai_edge_litert",), "onnx": ("onnxruntime",)}


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
        min_accuracy: Smallest accuracy, as a share of the student's, with which a smaller agreement
            is allowed, too; see `letkd_keras.export.comparison.Comparison.check`.
        needs_calibration: Whether the writer needs training images.
        is_quantized: Whether it is a TFLite file of the same network in fewer bits.
        converters: Packages that the writer needs besides TensorFlow.
    """

    file_name: str
    runtime: str
    writer: str
    tolerance: float | None
    min_agreement: float
    min_accuracy: float | None = None
    needs_calibration: bool = False
    is_quantized: bool = False
    converters: tuple = ()

    @property
    def is_inexact(self):
        """Whether only the order of its logits is compared with that of the student's."""
        return self.tolerance is None

    def write(self, student, path, options):
        """Write a student in this format.

        Args:
            student: Functional `keras.Model` from images to logits.
            path: File or folder to write.
            options: `ExportOptions`.

        Raises:
            ImportError: If the format needs a package that is not installed; `check_installed`
                finds out before.
            ValueError: If the options lack something that the format needs.
            ExportMismatch: If the converter ends in an error of its own (a `ValueError`).
        """
        module, function = self.writer.split(":")
        failure = None
        # Converters write much to stderr that concerns nobody.
        with stderr_to_log():
            writer = getattr(importlib.import_module(f"letkd_keras.export.{module}"), function)
            try:
                writer(student, path, options)
            except (ValueError, ImportError, OSError, MemoryError):
                raise
            except Exception as error:  # converters raise errors of many types
                failure = error
        if failure is not None:
            raise self._refusal(student, failure) from failure

    def _refusal(self, student, error):
        """One sentence in place of the many lines of a converter."""
        from letkd_keras.export.comparison import ExportMismatch

        name = next(name for name, row in _FORMATS.items() if row is self)
        # MLIR writes the place in the graph before the reason, and the graph after it.
        line = str(error).strip().partition("\n")[0]
        reason = re.sub(r".*error: (loc\(.*\): )?", "", line)
        return ExportMismatch(
            f"{name} of {student.name!r} could not be written ({type(error).__name__}): {reason}"
        )


def _tflite(name, function, tolerance, min_agreement, *, module="formats.tflite", **options):
    writer = f"{module}:{function}"
    return Format(f"student{name}.tflite", "tflite", writer, tolerance, min_agreement, **options)


def _quantized(name, function, min_agreement, **options):
    options |= {"is_quantized": True, "min_accuracy": _MIN_ACCURACY}
    return _tflite(name, function, None, min_agreement, **options)


def _trained(name, function):
    # Such a student was trained further and is another network. Even with the same accuracy it
    # disagrees with the original where the original is unsure.
    return _tflite(
        *(name, function, None, 0.98),
        module="tfmot.compression",
        min_accuracy=_MIN_ACCURACY,
        needs_calibration=True,
        converters=("tensorflow_model_optimization", "tf_keras"),
    )


_FORMATS = {
    "savedmodel": Format(
        "savedmodel", "savedmodel", "formats.savedmodel:write_savedmodel", 1e-4, 1.0
    ),
    "tflite": _tflite("", "write_tflite", 1e-4, 1.0),
    "tflite-float16": _tflite("_float16", "write_float16", 0.02, 0.99),
    "tflite-dynamic": _quantized("_dynamic", "write_dynamic_range", 0.98),
    "tflite-int8": _quantized("_int8", "write_int8", 0.98, needs_calibration=True),
    "tflite-int16x8": _quantized("_int16x8", "write_int16x8", 0.99, needs_calibration=True),
    "tflite-int4": _quantized(
        *("_int4", "write_int4", 0.95),
        module="formats.litert_quantizer",
        converters=("litert_quantizer",),
    ),
    "tflite-qat": _trained("_qat", "write_quantization_aware"),
    "tflite-pruned": _trained("_pruned", "write_pruned"),
    "tflite-clustered": _trained("_clustered", "write_clustered"),
    "onnx": Format(
        *("student.onnx", "onnx", "formats.onnx_file:write_onnx", 1e-4, 1.0),
        converters=("tf2onnx", "onnx"),
    ),
}

_TRAINED = ("tflite-qat", "tflite-pruned", "tflite-clustered")
# `ExportOptions` that only some formats use, and these formats.
OPTIONS = {
    "integer_io": ("tflite-int8",),
    "snr": tuple(name for name, row in _FORMATS.items() if row.is_quantized),
    "precision": ("tflite-int4",),
    "channels_first": ("onnx",),
    "opset": ("onnx",),
    "epochs": _TRAINED,
    "learning_rate": _TRAINED,
    "sparsity": ("tflite-pruned",),
    "clusters": ("tflite-clustered",),
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


def expand(names_or_all):
    """List the names of formats, each once.

    `["all"]` becomes all names, except those of formats that need a package which is not installed,
    and which the extra `export` does not install.

    Raises:
        ValueError: If one is unknown, or there is none.
    """
    if isinstance(names_or_all, str) or not len(names_or_all):
        raise ValueError(
            f"`formats` must be a list of names of formats. Received: formats={names_or_all!r}"
        )
    if list(names_or_all) == ["all"]:
        return [
            name
            for name in _FORMATS
            if all(_EXTRAS[package] == "export" for package in _missing_packages(name))
        ]
    for name in names_or_all:
        find(name, "formats")
    return list(dict.fromkeys(names_or_all))


def check_installed(names, to_write=True):
    """Refuse formats that need a package which is not installed, or another backend.

    Args:
        names: Names of the formats.
        to_write: Whether they are to be written. Otherwise only what runs them is needed.

    Raises:
        ValueError: If there is no such format, or Keras runs on another backend than TensorFlow.
        ImportError: If a package of a format is missing, or TensorFlow, which writes them all.
    """
    if to_write and importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "Export needs TensorFlow, which is not installed: save the student "
            '(`student.save("student.keras")`), and export the file where TensorFlow is installed '
            "(`python -m letkd_keras.export student.keras`)"
        )
    for name in names:
        missing = _missing_packages(name, to_write)
        if missing:
            packages = ", ".join(package.replace("_", "-") for package in missing)
            extras = ",".join(sorted({_EXTRAS[package] for package in missing}))
            raise ImportError(
                f"The format {name} needs {packages}: pip install 'letkd-keras[{extras}]'"
            )
    if to_write:
        import keras

        backend = keras.backend.backend()
        if backend != "tensorflow":
            raise ValueError(
                "Export needs the TensorFlow backend (KERAS_BACKEND=tensorflow). "
                f"Received: KERAS_BACKEND={backend}"
            )


def check_calibration(names, images):
    """Refuse formats that need calibration images if there are none.

    Args:
        names: Names of the formats.
        images: The images, or `None`.

    Raises:
        ValueError: If so.
    """
    needed = any(find(name).needs_calibration for name in names)
    if needed and (images is None or not len(images)):
        raise ValueError(
            "`calibration` must be given for this format: a few hundred training images, "
            "normalized as for the student. Received: calibration=None"
        )


def _missing_packages(name, to_write=True):
    row = find(name)
    needed = (*(row.converters if to_write else ()), *_RUNTIMES[row.runtime])
    return [package for package in needed if importlib.util.find_spec(package) is None]
