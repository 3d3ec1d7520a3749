"""A step of Keras' `fit` on JAX beside one of an epoch in one call, as JSON lines. See `--help`.

    KERAS_BACKEND=jax python benchmarks/device_epochs.py --pairs resnet56-resnet20

One line a pair, milliseconds of a step with 64 images (medians over epochs, the first one left
out): `fit_ms` and `loop_ms` of `LetKD` with both levels, by Keras' `fit` and by
`letkd_keras.recipes.trainings.epochs_on_device`; `loop_student_ms` of the student alone and
`loop_teacher_ms` of the teacher's forward pass, both in loops; `fit_student_ms` of the student by
Keras' `fit`; `floor_ratio` (loop / (student + teacher)), `fit_ratio` (fit / loop),
`images_per_s` of the loop and `peak_mib`, the most memory of the device since the program started,
so that a later pair includes the earlier ones. The student's and the teacher's loops each include
the augmentation.

Networks have fresh weights, prototypes random values of the paper's sizes, images are noise.
"""

import argparse
import json
import statistics
import time

import keras
import numpy as np
import train_step

from letkd_keras.data.image_data import ImageData
from letkd_keras.recipes.trainings import epochs_on_device

BATCH_SIZE = 64


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", default="resnet56-resnet20", help="comma separated")
    parser.add_argument("--steps", type=int, default=200, help="steps of an epoch (%(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each (%(default)s)")
    options = parser.parse_args(arguments)
    for name, least in (("steps", 1), ("epochs", 2)):
        if getattr(options, name) < least:
            parser.error(f"`{name}` must be at least {least}. Received: {getattr(options, name)}")
    backend = keras.backend.backend()
    if backend != "jax":
        parser.error(f"KERAS_BACKEND must be jax. Received: KERAS_BACKEND={backend}")
    for pair in options.pairs.split(","):
        print(json.dumps({"pair": pair, **_times(pair, options)}), flush=True)


def _times(pair, options):
    import jax

    models = train_step.keras_models(*pair.split("-"), ("penultimate", "intermediate"))
    line = {}
    for name, model in (("_student", models["student"]), ("", models["distiller"])):
        for how in ("fit", "loop"):
            line[f"{how}{name}_ms"] = _fit(model, how, options)
    line["loop_teacher_ms"] = _forward(models["teacher"], options)
    floor = line["loop_student_ms"] + line["loop_teacher_ms"]
    line["floor_ratio"] = line["loop_ms"] / floor
    line["fit_ratio"] = line["fit_ms"] / line["loop_ms"]
    line = {name: round(value, 3) for name, value in line.items()}
    line["images_per_s"] = round(1e3 * BATCH_SIZE / line["loop_ms"])
    device = jax.local_devices()[0]
    memory = device.memory_stats() or {}  # nothing on a CPU
    if "peak_bytes_in_use" in memory:
        line["peak_mib"] = round(memory["peak_bytes_in_use"] / 2**20)
    line["device"] = device.device_kind
    return {**line, "steps": options.steps, "epochs": options.epochs}


def _fit(model, how, options):
    data = _noise(options.steps * BATCH_SIZE)
    batches = data.training_batches(BATCH_SIZE, crop_padding=4, flip=True, epochs=options.epochs)
    clock = _Clock()
    arguments = {
        "steps_per_epoch": options.steps,
        "initial_epoch": 0,
        "epochs": options.epochs,
        "callbacks": [clock],
    }
    if how == "loop":
        epochs_on_device.fit(model, batches, data.evaluation_batches(BATCH_SIZE), **arguments)
    else:
        model.fit(batches, shuffle=False, verbose=0, **arguments)
    return 1e3 * statistics.median(clock.seconds[1:]) / options.steps


class _Clock(keras.callbacks.Callback):
    """Seconds of the steps of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.params["steps"] - 1:
            float(logs["loss"])  # waits for the device
            self.seconds.append(time.perf_counter() - self.start)


def _forward(teacher, options):
    import jax

    data = _noise(options.steps * BATCH_SIZE)
    batches = data.training_batches(BATCH_SIZE, crop_padding=4, flip=True, epochs=1)
    rows = np.stack([batches.rows(number) for number in batches.numbers]).astype("int32")

    @jax.jit
    def epoch(images, rows):
        def step(total, batch):
            rows, number = batch
            x = batches.make(images, rows, number)
            return total + teacher(x, training=False).sum(), None

        return jax.lax.scan(step, 0.0, (rows, np.arange(options.steps, dtype="int32")))[0]

    seconds = []
    for _ in range(options.epochs):
        start = time.perf_counter()
        float(epoch(batches.images, rows))
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[1:]) / options.steps


def _noise(count):
    r = np.random.default_rng(0)
    x = r.integers(0, 256, (count, 32, 32, 3), "uint8")
    y = np.arange(count) % train_step.CLASSES
    names = tuple(f"class {number}" for number in range(train_step.CLASSES))
    return ImageData(
        name="noise",
        x_train=x,
        y_train=y,
        x_test=x[:BATCH_SIZE],
        y_test=y[:BATCH_SIZE],
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        class_names=names,
        split="noise",
    )


if __name__ == "__main__":
    main()
