"""What a loss on the logits costs in a training step, in processor time of one thread.

    python benchmarks/logit_losses.py

JSON lines: `loss`, `cpu_ms` (value and gradient for the student's logits, best of several calls)
and `share`, the same as a share of a plain training step of a resnet20 (forward and backward pass
at the same batch size), which is measured in the same run. Sizes: batch 64, 100 classes.
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
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--calls", type=int, default=20)
    options = parser.parse_args()
    steps = calls(options.batch_size, options.classes)
    milliseconds = {name: cpu_ms(step, options.calls) for name, step in steps.items()}
    plain = milliseconds.pop("student")
    print(json.dumps({"student": "resnet20", "cpu_ms": round(plain, 1)}))
    for name, value in milliseconds.items():
        line = {"loss": name, "cpu_ms": round(value, 3), "share": round(value / plain, 4)}
        print(json.dumps(line), flush=True)


def calls(batch_size, classes):
    """Functions by name: a plain step of the student, and value and gradient of each loss."""
    import keras
    import numpy as np
    import tensorflow as tf

    from letkd_keras import models
    from letkd_keras.losses import LOGIT_LOSSES

    r = np.random.default_rng(0)
    teacher = tf.constant(r.standard_normal((batch_size, classes)), "float32")
    logits = tf.constant(r.standard_normal((batch_size, classes)), "float32")
    labels = tf.constant(np.arange(batch_size) % classes)
    images = tf.constant(r.standard_normal((batch_size, 32, 32, 3)), "float32")
    student = models.build("resnet20", num_classes=classes)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def student_step():
        with tf.GradientTape() as tape:
            value = cross_entropy(labels, student(images, training=True))
        return tape.gradient(value, [v.value for v in student.trainable_variables])

    def loss_step(loss):
        def step():
            with tf.GradientTape() as tape:
                tape.watch(logits)
                value = loss((teacher, labels), logits)
            return tape.gradient(value, logits)

        return step

    losses = {name: loss_step(row.build()) for name, row in LOGIT_LOSSES.items()}
    return {name: tf.function(step) for name, step in {"student": student_step, **losses}.items()}


def cpu_ms(step, repeats):
    """Processor time of a call in milliseconds, the shortest of several."""
    step()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


if __name__ == "__main__":
    main()
