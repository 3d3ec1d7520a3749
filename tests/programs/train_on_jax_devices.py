"""Train the LetKD of `train_on_replicas` on all of JAX's devices and save the results.

    KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=2 \
        python train_on_jax_devices.py BATCH_SIZE FLOATX BLOCK_SIZE FILE.npz

A block size of 0 means none.
"""

import sys
from pathlib import Path

import jax
import keras
import numpy as np
from float64 import compute_in_float64
from train_on_replicas import images, small_letkd


def main(batch_size, block_size, path):
    devices = keras.distribution.list_devices()
    if len(devices) > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    model, teacher = small_letkd(Path(path).parent, block_size)
    before = teacher.get_weights()
    x, y = images()
    history = model.fit(x, y, batch_size=batch_size, epochs=2, verbose=0, shuffle=False)
    for after, expected in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(after, expected)
    logs = {f"log {name}": values for name, values in history.history.items()}
    weights = {f"weight {i}": array for i, array in enumerate(model.student.get_weights())}
    np.savez(path, **logs, **weights, replicas=jax.device_count())


if __name__ == "__main__":
    if sys.argv[2] == "float64":
        compute_in_float64()
    main(int(sys.argv[1]), int(sys.argv[3]) or None, sys.argv[4])
