import contextlib
import io
import tempfile
from pathlib import Path

from letkd_keras.export.formats.tflite import write_tflite


def write_int4(student, path, options=None):
    """Write a TFLite file with int4 weights. Activations are quantized while it runs.

    Args:
        student: Functional `keras.Model` that returns logits, folded.
        path: File to write.
        options: `ExportOptions`.

    Raises:
        ImportError: If litert-quantizer is not installed.
    """
    try:
        from litert_quantizer import quantizer, recipe
    except ImportError as error:
        raise ImportError(
            "The format tflite-int4 needs litert-quantizer: pip install 'letkd-keras[quantize]'"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "float32.tflite"
        write_tflite(student, file, options)
        quantize = quantizer.Quantizer(str(file))
        quantize.load_quantization_recipe(recipe.dynamic_wi4_afp32())
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a summary
            result = quantize.quantize()
        Path(path).write_bytes(result.quantized_model)
