"""letKD on the small networks of `tests/distillers/conftest.py`, and a step of it."""

import keras

from letkd_keras import LetKD
from letkd_keras.optimizers import TorchSGD

LOSSES = ["kl_intermediate", "kl_penultimate", "loss", "task_loss"]


def compiled(model, **kwargs):
    model.compile(
        optimizer=TorchSGD(0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Tracing costs more than these steps; tests of `fit` as people use it trace.
        **{"metrics": ["accuracy"], "run_eagerly": True, **kwargs},
    )
    return model


def letkd(setting, student=None, seed=0, **kwargs):
    keras.utils.set_random_seed(seed)
    student = student or setting.student()
    return LetKD(setting.teacher, student, setting.prototypes, **kwargs)


def step(model, setting, *arguments, **kwargs):
    logs = model.train_on_batch(setting.x, *(arguments or (setting.y,)), return_dict=True, **kwargs)
    return {name: float(value) for name, value in logs.items()}


def coarse_student(size=8):
    """A student whose `conv2` has a grid of 3x3 for images of 8x8."""
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3, 2, name="conv1")(inputs)
    x = keras.layers.Conv2D(4, 1, name="conv2")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def fine_student(size=8):
    """A student whose `conv2` has a grid of 8x8 for images of 8x8."""
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv1")(inputs)
    x = keras.layers.Conv2D(4, 1, name="conv2")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))
