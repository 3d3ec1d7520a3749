"""What the penultimate level of a step costs by itself: time of one thread, and memory.

    python benchmarks/kd_level.py --parts targets level --block-sizes 0 8 16

JSON lines: `part` (`targets`: the teacher's soft targets; `level`: targets, KD layer, KL and their
gradients), `block_size` (`LetKD(block_size=)`; 0: the whole batch at once), `compiled` (`graph` or
`xla`), `cpu_ms` (processor time, best of several calls), `compile_s`, the first call, and
`peak_mib`, the peak memory above that before the first call. Each line is from a process of its
own. The default sizes are those of resnet56-resnet20: maps of 8x8x64, 4096 templates.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_SIZES = {"batch_size": 64, "grid": 8, "channels": 64, "templates": 4096, "calls": 5}


def main():
    options = parse()
    if options.one is not None:
        part, compiled, block_size = options.one.split(",")
        print(json.dumps(measure(options, part, compiled, int(block_size))))
        return
    cases = [("targets", 0), *(("level", block_size) for block_size in options.block_sizes)]
    for part, block_size in cases:
        if part not in options.parts:
            continue
        for compiled in options.compiled:
            command = [sys.executable, __file__, "--one", f"{part},{compiled},{block_size}"]
            for name in _SIZES:
                command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout.splitlines()[-1], flush=True)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, size in _SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    parser.add_argument("--block-sizes", type=int, nargs="*", default=[0])
    parser.add_argument("--parts", nargs="*", choices=("targets", "level"), default=("level",))
    parser.add_argument("--compiled", nargs="*", choices=("graph", "xla"), default=("graph", "xla"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options, part, compiled, block_size):
    """A line's figures."""
    import tensorflow as tf

    call = calls(options, block_size or None)[part]
    function = tf.function(call, jit_compile=compiled == "xla")
    before, start = peak_mib(), time.perf_counter()
    function()
    line = {"part": part, "block_size": block_size, "compiled": compiled}
    line["compile_s"] = round(time.perf_counter() - start, 1)
    times = []
    for _ in range(options.calls):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return {**line, "cpu_ms": round(1e3 * min(times), 1), "peak_mib": round(peak_mib() - before)}


def calls(options, block_size):
    """Functions by name of the part."""
    import keras
    import numpy as np
    import tensorflow as tf

    from letkd_keras import LetKD, Prototypes
    from letkd_keras.prototypes import PenultimatePrototypes

    def normal(*shape):
        return r.standard_normal(shape, "float32")

    def network(name):
        inputs = keras.Input(shape[1:])
        x = keras.layers.Identity(name="penultimate")(inputs)
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, keras.layers.Dense(2)(x), name=name)

    r = np.random.default_rng(0)
    shape = (options.batch_size, options.grid, options.grid, options.channels)
    student, teacher = (tf.constant(normal(*shape)) for _ in range(2))
    cotangent = tf.constant(normal(options.batch_size, options.channels))
    labels = tf.zeros(options.batch_size, "int32")
    centers = normal(options.templates, options.channels)
    fitted = PenultimatePrototypes("penultimate", shape[1:3], 1, centers=centers)
    model = LetKD(network("teacher"), network("student"), Prototypes(fitted), block_size=block_size)
    layer = model.student.get_layer("kd_penultimate")

    def targets():
        return model.targets("penultimate", teacher, labels)

    def level():
        supervision = targets() if block_size is None else (teacher, labels)
        with tf.GradientTape() as tape:
            tape.watch(student)
            if block_size is None:
                options = {"return_scores": True, "pool_output": True}
                pooled, supervised = layer(student, training=True, **options)
            else:
                pooled, supervised = layer.call_in_blocks(student, block_size, True, True), student
            losses = model.compute_distillation_losses(
                {"penultimate": supervised}, {"penultimate": supervision}
            )
            loss = losses["kl_penultimate"] + tf.reduce_sum(pooled * cotangent)
        return tape.gradient(loss, [student, *(v.value for v in layer.trainable_variables)])

    return {"targets": targets, "level": level}


def peak_mib():
    """Peak memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
