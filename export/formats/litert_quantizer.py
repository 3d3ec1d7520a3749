import contextlib
import difflib
import fnmatch
import io
import re
import tempfile
from pathlib import Path

from letkd_keras.export.formats.tflite import write_tflite
from letkd_keras.functional.graph import maker


def write_int4(student, path, options):
    """Write a TFLite file with int4 weights. Activations are quantized while it runs.

    Args:
        student: Functional `keras.Model` that returns logits, folded.
        path: File to write.
        options: `ExportOptions`. Its `precision` names layers whose weights are int8 or float32.

    Raises:
        ImportError: If litert-quantizer is not installed.
        ValueError: If `precision` names no layer of the student.
    """
    from litert_quantizer import quantizer, recipe

    chosen = layer_precisions(student, options.precision or {})
    rows_of = {
        "int4": recipe.dynamic_wi4_afp32(),
        "int8": recipe.dynamic_wi8_afp32(),
        "float32": [{"operation": "*", "algorithm_key": "no_quantize"}],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "float32.tflite"
        write_tflite(student, file, options)
        rows = list(rows_of["int4"])
        for layer, precision in chosen.items():
            # The last row that fits an operation counts.
            regex = _scope_of(layer, student, file)
            rows += [{**row, "regex": regex} for row in rows_of[precision]]
        quantize = quantizer.Quantizer(str(file))
        quantize.load_quantization_recipe(rows)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a summary
            result = quantize.quantize()
        Path(path).write_bytes(result.quantized_model)


def layer_precisions(student, precision):
    """Resolve the patterns of `ExportOptions.precision`.

    Args:
        student: The model to write.
        precision: Dictionary from a name, or a pattern with `*`, to a type.

    Returns:
        Dictionary from the names of layers with kernels to a type. A later pattern has priority.

    Raises:
        ValueError: If a pattern fits no such layer; similar names are listed.
    """
    names = [layer.name for layer in student.layers if getattr(layer, "kernel", None) is not None]
    chosen = {}
    for pattern, value in precision.items():
        fitting = fnmatch.filter(names, pattern)
        if not fitting:
            similar = difflib.get_close_matches(pattern, names, n=5) or names[-5:]
            raise ValueError(
                "`precision` must name layers with kernels of the student as it is written, "
                f"perhaps with *. Received: {pattern!r}. Similar names, or else the last ones: "
                f"{', '.join(similar)}"
            )
        chosen |= dict.fromkeys(fitting, value)
    return chosen


def _scope_of(layer, student, file):
    """Regular expression for the names of the tensors that a layer's operations return.

    TensorFlow joins the names of what it merges by semicolons, and numbers the scopes of layers.
    """
    scope = rf"(^|[/;]){re.escape(layer)}(_\d+)?[/;]"
    if maker(student.outputs[0]).name != layer:
        return scope
    from ai_edge_litert.interpreter import Interpreter

    # The output's name is that of the endpoint.
    (output,) = Interpreter(str(file)).get_output_details()
    return rf"{scope}|^{re.escape(output['name'])};"
