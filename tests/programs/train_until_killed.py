"""Train a small student by the recipes' `train`, to be killed at a step.

    python train_until_killed.py FOLDER STEP

The process kills itself after STEP training steps, counted from the start of this process; with 0
it ends, and leaves the weights and the result in `end.npz`.
"""

import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from letkd_keras import TorchBatchNormalization
from letkd_keras.data import load_digits
from letkd_keras.recipes.trainings import training
from letkd_keras.recipes.trainings.schedule import Schedule


def main(folder, step):
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(3)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=4)(inputs)
    x = keras.layers.Dropout(0.2)(TorchBatchNormalization()(x))
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))

    class Killed(training.StopOnNonFiniteLoss):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    training.StopOnNonFiniteLoss = Killed
    schedule = Schedule(5, 0.1, (2, 4), batch_size=16)
    data = load_digits().subset(72, 32)
    result = training.train(model, data, schedule, folder, seed=5, augmentation={"crop_padding": 2})
    del result["seconds"]
    np.savez(Path(folder) / "end.npz", *model.get_weights(), **result)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
