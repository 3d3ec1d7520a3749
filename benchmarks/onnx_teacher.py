"""What a teacher in an ONNX file takes beside the same teacher of Keras, as JSON lines.

    python benchmarks/onnx_teacher.py --teachers resnet56 wrn40_2 --student resnet20

One line a teacher: `keras_ms` and `onnx_ms` (the teacher's forward pass for a batch), their
`ratio`, and `keras_step_ms`, `onnx_step_ms` and `step_ratio` (a training step of KD). Times are
medians of interleaved calls, by default of the processor time of all threads: compare the ratios.
Weights are fresh and images are noise, which does not matter to time.
"""

import argparse
import json
import statistics
import tempfile
import time

WARM_UP = 3
_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main(arguments=None):
    options = parse(arguments)
    for teacher in options.teachers:
        print(json.dumps(measure(teacher, options)), flush=True)


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", nargs="+", default=["resnet56"], help="networks of the zoo")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--steps", type=int, default=20, help="timed calls of each")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--clock", choices=_CLOCKS, default="cpu", help="time taken (%(default)s)")
    options = parser.parse_args(arguments)
    for name in ("steps", "batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"`{name}` must be at least 1. Received: {getattr(options, name)}")
    return options


def measure(name, options):
    """The line of a teacher."""
    import keras
    import numpy as np
    import tensorflow as tf

    import letkd_keras as letkd

    teachers = {"keras": letkd.models.build(name)}
    with tempfile.TemporaryDirectory() as folder:
        file = letkd.export_student(teachers["keras"], folder, "onnx").path
        teachers["onnx"] = letkd.functional.open_onnx(file)
    rng = np.random.default_rng(0)
    shape, classes = teachers["keras"].input_shape[1:], teachers["keras"].output_shape[-1]
    images = tf.constant(rng.normal(size=(options.batch_size, *shape)), "float32")
    labels = tf.constant(rng.integers(0, classes, options.batch_size))
    calls = {}
    for kind, teacher in teachers.items():
        model = letkd.KD(teacher, letkd.models.build(options.student))
        model.compile(
            keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        calls[kind] = _forward(teacher, images)
        calls[f"{kind}_step"] = lambda model=model: model.train_on_batch(images, labels)
    times = _times(calls, options)
    line = {"teacher": name, "student": options.student, "batch_size": options.batch_size}
    line |= {f"{kind}_ms": round(1000 * seconds, 1) for kind, seconds in times.items()}
    line["ratio"] = round(times["onnx"] / times["keras"], 2)
    return {**line, "step_ratio": round(times["onnx_step"] / times["keras_step"], 2)}


def _forward(teacher, images):
    import tensorflow as tf

    function = tf.function(lambda: teacher(images, training=False))
    return lambda: function().numpy()


def _times(calls, options):
    """Median seconds of each call, of interleaved ones."""
    seconds = {kind: [] for kind in calls}
    clock = _CLOCKS[options.clock]
    for step in range(WARM_UP + options.steps):
        for kind, call in calls.items():
            start = clock()
            call()
            if step >= WARM_UP:
                seconds[kind].append(clock() - start)
    return {kind: statistics.median(values) for kind, values in seconds.items()}


if __name__ == "__main__":
    main()
