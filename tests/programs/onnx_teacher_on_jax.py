"""Trains a student under a teacher of an ONNX file, and prints the logits and losses as JSON."""

import json
import os
import sys

import keras
import numpy as np

import letkd_keras as letkd
from letkd_keras.functional import open_onnx


def history(path):
    """Logits of the teacher for 96 images, and the losses of two epochs of KD."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(96, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 5, 96)
    teacher = open_onnx(path)
    logits = teacher.predict(images, verbose=0).tolist()  # before any call that is not compiled
    inputs = keras.Input((32, 32, 3))
    head = keras.layers.Dense(5, kernel_initializer="ones")
    student = keras.Model(inputs, head(keras.layers.GlobalAveragePooling2D()(inputs)))
    model = letkd.KD(teacher, student)
    model.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    fitted = model.fit(images, labels, batch_size=32, epochs=2, shuffle=False, verbose=0)
    return {"logits": logits, **fitted.history}


def largest_gradient(path):
    """Largest entry of the gradient that passes through the teacher to its images."""
    import jax

    teacher = open_onnx(path)
    gradient = jax.grad(lambda images: keras.ops.sum(teacher(images)))
    return float(abs(gradient(np.ones((2, 32, 32, 3), "float32"))).max())


if __name__ == "__main__":
    # On one processor a step must not wait for what no thread is left to do.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    print(json.dumps({**history(sys.argv[1]), "gradient": largest_gradient(sys.argv[1])}))
