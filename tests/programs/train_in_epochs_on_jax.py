"""Train a small network and a distiller on JAX by Keras' `fit` and with an epoch in one call.

    KERAS_BACKEND=jax python train_in_epochs_on_jax.py FOLDER

The program pretends that the CPU is a GPU. It prints as JSON, for the network, the network with
averaged weights and the distiller, the metrics of every epoch by each way (`fit`, `loop`), the
epochs whose state each way saved, and the largest difference of the weights between the loop and
one that was interrupted in its second epoch and continued (`resumed`). `broken` has the error of
each way where the learning rate is far too large.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from small_problem import small_teacher

from letkd_keras.data import load_digits
from letkd_keras.distillers import Distiller
from letkd_keras.losses import logit_loss
from letkd_keras.recipes.trainings import training
from letkd_keras.recipes.trainings.schedule import Schedule
from letkd_keras.recipes.trainings.training_state import SaveState, read_state

SCHEDULE = Schedule(3, 0.02, (2,), batch_size=16)
AVERAGED = replace(SCHEDULE, ema=0.9)


class Interrupted(Exception):
    pass


class Interrupt(training.StopOnNonFiniteLoss):
    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == 1:
            raise Interrupted


def network():
    """A network with dropout, whose random numbers must be the same either way."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.3)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def distiller():
    student, teacher = network(), small_teacher(10, 16)
    return Distiller(teacher, student, logit_losses={"kd": (logit_loss("kd"), 0.5)})


def train(model, data, folder, schedule):
    training.train(
        model,
        data,
        schedule,
        folder,
        seed=5,
        augmentation={"crop_padding": 2, "flip": True},
    )
    return model


def compare(make, data, folder, schedule=SCHEDULE):
    saved = []
    save = SaveState._save_weights
    SaveState._save_weights = lambda self, name: saved.append(name) or save(self, name)
    found = {"saved": {}}
    # Three short epochs take less, on any machine.
    training._SECONDS, seconds = 3600, training._SECONDS
    backend = jax.default_backend
    for way in ("fit", "loop"):
        jax.default_backend = backend if way == "fit" else lambda: "gpu"
        saved.clear()
        model = train(make(), data, folder / way, schedule)
        found["saved"][way] = list(saved)
        rows = (folder / way / "metrics.csv").read_text().splitlines()
        names, *rows = (row.split(",") for row in rows)
        found[way] = [dict(zip(names, map(float, row), strict=True)) for row in rows]
    training._SECONDS = 0
    stop, training.StopOnNonFiniteLoss = training.StopOnNonFiniteLoss, Interrupt
    try:
        train(make(), data, folder / "resumed", schedule)
    except Interrupted:
        found["interrupted_after"] = read_state(folder / "resumed")["epochs"]
    training.StopOnNonFiniteLoss = stop
    resumed = train(make(), data, folder / "resumed", schedule)
    training._SECONDS, jax.default_backend = seconds, backend
    SaveState._save_weights = save
    pairs = zip(resumed.get_weights(), model.get_weights(), strict=True)
    found["resumed"] = max(float(np.abs(a - b).max()) for a, b in pairs)
    return found


def errors(data, folder):
    """What each way reports where the loss is not finite from some step of an epoch on."""
    found, backend = {}, jax.default_backend
    for way in ("fit", "loop"):
        jax.default_backend = backend if way == "fit" else lambda: "gpu"
        try:
            train(network(), data, folder / way, replace(SCHEDULE, learning_rate=1e30))
        except FloatingPointError as error:
            found[way] = str(error)
    jax.default_backend = backend
    return found


if __name__ == "__main__":
    data = load_digits(16).subset(64, 300)
    folder = Path(sys.argv[1])
    found = {
        "network": compare(network, data, folder / "network"),
        "averaged": compare(network, data, folder / "averaged", AVERAGED),
        "distiller": compare(distiller, data.keep_labels(0.5, 0), folder / "distiller"),
        "broken": errors(data, folder / "broken"),
    }
    print(json.dumps(found))
