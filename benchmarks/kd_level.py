"""What the penultimate level of a step costs by itself, in processor time of one thread.

    python benchmarks/kd_level.py

JSON lines: `part` (`targets`: the teacher's soft targets; `level`: targets, KD layer, KL and their
gradients), `compiled` (`graph` or `xla`), `cpu_ms` (best of several calls) and `compile_s`, the
first call. Sizes are those of resnet56-resnet20: maps of 8x8x64, 4096 templates.
"""

import argparse
import json
import os
import time

os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--calls", type=int, default=5)
    options = parser.parse_args()
    import tensorflow as tf

    for part, call in calls(options.batch_size).items():
        for compiled in ("graph", "xla"):
            function = tf.function(call, jit_compile=compiled == "xla")
            start = time.perf_counter()
            function()
            line = {"part": part, "compiled": compiled}
            line["compile_s"] = round(time.perf_counter() - start, 1)
            times = []
            for _ in range(options.calls):
                start = time.process_time()
                function()
                times.append(time.process_time() - start)
            print(json.dumps({**line, "cpu_ms": round(1e3 * min(times), 1)}), flush=True)


def calls(batch_size):
    """Functions by name."""
    import numpy as np
    import tensorflow as tf

    from letkd_keras import KDLayer, TemplateKLDivergence
    from letkd_keras.layers import PenultimateTargets

    def normal(*shape):
        return tf.constant(r.standard_normal(shape), "float32")

    r = np.random.default_rng(0)
    student, teacher, cotangent = (normal(batch_size, 8, 8, 64) for _ in range(3))
    layer, targets, divergence = KDLayer(4096), PenultimateTargets(4096), TemplateKLDivergence()
    layer.build(student.shape)
    targets.build(teacher.shape)
    targets.centers.assign(normal(4096, 64))

    def soft_targets():
        return targets(teacher, return_negentropy=True)

    def level():
        soft_target = soft_targets()
        with tf.GradientTape() as tape:
            tape.watch(student)
            pooled, scores = layer(student, training=True, return_scores=True, pool_output=True)
            loss = divergence(soft_target, scores) + tf.reduce_sum(pooled * cotangent[:, 0, 0])
        return tape.gradient(loss, [student, *(v.value for v in layer.trainable_variables)])

    return {"targets": soft_targets, "level": level}


if __name__ == "__main__":
    main()
