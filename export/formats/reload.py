"""Run an exported student on images, in a process without this package.

    python -E -P reload.py ARTIFACT THREADS REPEATS RUNTIME IMAGES.npy OUTPUTS.npy [RUNTIME ...]

writes the outputs of each runtime or, if REPEATS is not 0, the seconds that each of so many runs on
all images took.

This file is run by its path and imports no module of this package. What works here works for
everybody who has the artifact and its runtime; `letkd_keras.export.classify` and
`quantization_noise` use it too. Images are float32, or uint8 for the endpoint `classify`.
"""

import functools
import sys
import timeit

import numpy as np

_BATCH = 64


def _savedmodel(path, threads, signature="serving_default", output=None):
    import tensorflow as tf

    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    serve = tf.saved_model.load(path).signatures[signature]
    output = output or next(iter(serve.structured_outputs))
    return lambda images: serve(image=tf.constant(images))[output].numpy()


def _classify(path, threads):
    return _savedmodel(path, threads, "classify", "probabilities")


def _tflite(path, threads):
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(path, num_threads=threads).get_signature_runner("serving_default")
    input_details = runner.get_input_details()["image"]
    ((output, output_details),) = runner.get_output_details().items()

    def run(images):
        return to_real(runner(image=to_input(images, input_details))[output], output_details)

    return run


def to_input(images, details):
    """Images as an input of a TFLite file takes them, which may be of integers."""
    if details["dtype"] != np.float32:
        scale, zero = details["quantization"]
        limits = np.iinfo(details["dtype"])
        images = np.clip(np.round(images / scale) + zero, limits.min, limits.max)
    return images.astype(details["dtype"], copy=False)


def to_real(values, details, dtype="float32"):
    """Values of a tensor of a TFLite file, which may be quantized, as real numbers."""
    scale, zero = details["quantization"]
    values = values.astype(dtype, copy=False)
    return (values - zero) * np.dtype(dtype).type(scale) if scale else values


def _onnx(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    channels_first = session.get_modelmeta().custom_metadata_map.get("layout") == "NCHW"

    def run(images):
        if channels_first:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return session.run(None, {"image": images})[0]

    return run


RUNTIMES = {"savedmodel": _savedmodel, "classify": _classify, "tflite": _tflite, "onnx": _onnx}
# No artifact needs these packages. A device has no TensorFlow. TensorFlow itself imports Keras if
# it can, which takes as long as the rest of TensorFlow.
_BLOCKED = {
    **dict.fromkeys(("savedmodel", "classify"), ("letkd_keras", "keras")),
    **dict.fromkeys(("tflite", "onnx"), ("letkd_keras", "keras", "tensorflow")),
}


def main(artifact, threads, repeats, *jobs):
    """Write the outputs for all images, or how long they take, of every runtime."""
    threads, repeats = int(threads), int(repeats)
    for runtime, images_file, outputs_file in zip(jobs[::3], jobs[1::3], jobs[2::3], strict=True):
        # An import of one of them now fails as if it were not installed.
        sys.modules.update(dict.fromkeys(_BLOCKED[runtime]))
        images = np.load(images_file)
        run = RUNTIMES[runtime](artifact, threads)
        if repeats:
            for _ in range(3):
                run(images)
            outputs = timeit.repeat(functools.partial(run, images), number=1, repeat=repeats)
        else:
            starts = range(0, len(images), _BATCH)
            outputs = np.concatenate([run(images[start : start + _BATCH]) for start in starts])
        np.save(outputs_file, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
