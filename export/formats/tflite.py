import tempfile
from pathlib import Path

import keras
import numpy as np

from letkd_keras.export.formats.savedmodel import write_serving
from letkd_keras.export.inverse_rms import with_calibrated_floors, with_float16_floors
from letkd_keras.functional.graph import retrace


def write_tflite(student, path, options, configure=lambda converter: None, quantized=False):
    """Write a TFLite (LiteRT) file, by default in float32.

    `write_int8` and `convert_savedmodel` describe the arguments.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Conversion from a SavedModel freezes the variables; from a bare function it does not.
        write_serving(_with_constant_shapes(student), folder, options)
        convert_savedmodel(folder, path, configure, quantized)


def write_float16(student, path, options):
    """Write a TFLite file with float16 weights. It computes in float32."""
    import tensorflow as tf

    def configure(converter):
        converter.target_spec.supported_types = [tf.float16]

    write_tflite(with_float16_floors(student), path, options, configure, quantized=True)


def write_dynamic_range(student, path, options):
    """Write a TFLite file with int8 weights. Activations are quantized while it runs."""
    write_tflite(student, path, options, quantized=True)


def write_int8(student, path, options):
    """Write a TFLite file that computes in int8 throughout.

    Args:
        student: Functional `keras.Model` that returns logits, folded.
        path: File to write.
        options: `ExportOptions` with `calibration`. With `integer_io` the outputs are int8, and the
            inputs uint8 if they are pixels, otherwise int8.
    """
    import tensorflow as tf

    ends = {}
    if options.integer_io:
        takes_pixels = options.input == "pixels"
        ends["inference_input_type"] = tf.uint8 if takes_pixels else tf.int8
        ends["inference_output_type"] = tf.int8
    operations = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
    _convert_calibrated(student, path, options, operations, **ends)


def write_int16x8(student, path, options):
    """Write a TFLite file with int8 weights and int16 activations, float32 at its two ends.

    The arguments are those of `write_int8`.
    """
    import tensorflow as tf

    operations = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    _convert_calibrated(student, path, options, operations)


def _convert_calibrated(student, path, options, operations, **ends):
    """Convert to one set of operations, with ranges from the calibration images.

    `ends` are the settings of the converter that say which types inputs and outputs have.
    """
    images = np.asarray(options.calibration, "float32")
    student = with_calibrated_floors(student, images)
    images = _with_full_range(images, options)

    def configure(converter):
        converter.representative_dataset = lambda: ({"image": image[None]} for image in images)
        converter.target_spec.supported_ops = [operations]
        for name, kind in ends.items():
            setattr(converter, name, kind)

    write_tflite(student, path, options, configure, quantized=True)


def _with_full_range(images, options):
    """Calibration images of which one has a black and a white corner.

    The range of the input is then 0 to 255, so that its quantization has the scale 1.
    """
    if options.input != "pixels":
        return images
    images = images.copy()
    images[0, 0, 0], images[0, -1, -1] = 0, 255
    return images


class _ConstantShape(keras.layers.Layer):
    """A reshaping layer that does not ask for the number of images, where all sides are known."""

    def __init__(self, layer):
        super().__init__(name=layer.name)
        self.layer = layer

    def call(self, inputs):
        shape = self.layer.compute_output_shape(inputs.shape)[1:]
        return self.layer(inputs) if None in shape else keras.ops.reshape(inputs, (-1, *shape))


def _with_constant_shapes(student):
    """A student of the same layers whose reshaping layers do not ask for the number of images.

    Keras computes the new shape from it, by three operations. Delegates that need constant shapes
    cannot have these.
    """
    replaced = {layer: _ConstantShape(layer) for layer in student.layers if _reshapes(layer)}
    if not replaced:
        return student

    def call(operation, *args, **kwargs):
        return replaced.get(operation, operation)(*args, **kwargs)

    return keras.Model(*retrace(student, call), name=student.name)


def _reshapes(layer):
    is_flatten = type(layer) is keras.layers.Flatten and layer.data_format == "channels_last"
    return is_flatten or type(layer) is keras.layers.Reshape


def convert_savedmodel(folder, path, configure=lambda converter: None, quantized=False):
    """Write a TFLite file of a SavedModel.

    Args:
        folder: Folder of the SavedModel.
        path: File to write.
        configure: Function that sets further options of the `tf.lite.TFLiteConverter`.
        quantized: Whether the converter optimizes, which quantizes at least the weights.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    if quantized:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    configure(converter)
    Path(path).write_bytes(converter.convert())
