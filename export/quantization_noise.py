"""How much noise quantization adds to the result of each layer."""

import re
from dataclasses import dataclass

import keras
import numpy as np

from letkd_keras.export.formats.reload import to_input, to_real
from letkd_keras.functional.graph import run

_IMAGES = 16
_OUTPUT = "output"
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "DELEGATE")


@dataclass(frozen=True)
class LayerNoise:
    """Signal-to-noise ratio of one operation.

    Attributes:
        layer: Name of the student's layer.
        operation: Name of the TFLite operation.
        snr_db: `10 log10(signal / noise)` in decibels, the noise being the difference from the
            float32 file. `None` where there is no signal or no noise.
    """

    layer: str
    operation: str
    snr_db: float | None


def always_zero(model, images):
    """Names of the layers whose outputs are 0 for all images.

    Args:
        model: Functional `keras.Model`.
        images: Images [N, H, W, C] as the model takes them.

    Returns:
        A list in the order of the graph.
    """
    zero = {}

    def call(operation, *args, **kwargs):
        outputs = operation(*args, **kwargs)
        is_zero = not any(map(np.any, map(np.asarray, keras.tree.flatten(outputs))))
        zero[operation.name] = zero.get(operation.name, True) and is_zero
        return outputs

    for start in range(0, len(images), _IMAGES):
        run(model, keras.ops.convert_to_tensor(images[start : start + _IMAGES]), call)
    return [name for name, is_zero in zero.items() if is_zero]


def layer_noise(reference, quantized, images, layer_names=()):
    """Compare the result of each operation of a quantized TFLite file with that in float32.

    Args:
        reference: Path of the TFLite file in float32 of the same model.
        quantized: Path of the quantized file.
        images: Images [N, H, W, C] as both files take them; the first 16 are used.
        layer_names: Names of the model's layers, to name the operations by.

    Returns:
        A list of `LayerNoise` in the order of the operations. Operations that exist in one file
        only are left out.
    """
    shape = images.shape[1:]
    expected, received = _Results(reference, shape), _Results(quantized, shape)
    signal, noise = {}, {}
    for image in images[:_IMAGES]:
        floats, values = expected.run(image), received.run(image)
        for name, value in values.items():
            # The converter adds a 1 to the second of two tensors that have the same name.
            same = (name, name.removesuffix("1"), f"{name}1")
            name = next((other for other in same if other in floats), None)
            if name is None or floats[name].shape != value.shape:
                continue
            float_value = floats[name].astype("float64")
            signal[name] = signal.get(name, 0) + np.sum(float_value**2)
            noise[name] = noise.get(name, 0) + np.sum((value - float_value) ** 2)
    return [
        LayerNoise(
            _layer_of(name, set(layer_names)),
            expected.operations[name].lower(),
            _decibels(signal[name], noise[name]),
        )
        for name in signal
    ]


class _Results:
    """Runs a file on single images of a shape and keeps the results of its operations."""

    def __init__(self, path, shape):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.interpreter = Interpreter(
            str(path),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        (source,) = self.interpreter.get_input_details()
        self.interpreter.resize_tensor_input(source["index"], (1, *shape))
        self.interpreter.allocate_tensors()
        details = {entry["index"]: entry for entry in self.interpreter.get_tensor_details()}
        self.results, self.operations = {}, {}
        # The converter names the output differently in each file.
        (output,) = self.interpreter.get_output_details()
        for operation in self.interpreter._get_ops_details():
            for index in operation["outputs"]:
                is_output = index == output["index"]
                is_result = operation["op_name"] not in _CONVERSIONS and index in details
                if operation["op_name"] != "DELEGATE" and (is_output or is_result):
                    name = _OUTPUT if is_output else details[index]["name"]
                    self.results[name] = details[index]
                    self.operations[name] = operation["op_name"]

    def run(self, image):
        """Results by name of the tensor, in real numbers."""
        (source,) = self.interpreter.get_input_details()
        self.interpreter.set_tensor(source["index"], to_input(image[None], source))
        self.interpreter.invoke()
        return {
            name: to_real(self.interpreter.get_tensor(entry["index"]), entry, "float64")
            for name, entry in self.results.items()
        }


def _decibels(signal, noise):
    return float(10 * np.log10(signal / noise)) if signal > 0 and noise > 0 else None


def _layer_of(tensor, names):
    """Layer whose result a tensor is: TensorFlow numbers the scopes of layers ("conv_1/...")."""
    for part in reversed(tensor.split(";")):
        for scope in part.split("/"):
            for name in (re.sub(r"_\d+$", "", scope), scope):
                if name in names:
                    return name
    return tensor.split(";")[-1]
