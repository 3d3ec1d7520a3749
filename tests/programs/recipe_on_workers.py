"""Run a small recipe in float64, alone or as one of the workers that the environment names.

    python recipe_on_workers.py FOLDER [STEP] [OPTION ...]

The process kills itself by SIGKILL after STEP training steps, 0 for never. OPTIONs are further ones
of the recipe `compare`.
"""

import os
import signal
import sys

from float64 import compute_in_float64

from letkd_keras.commands.terminal_log import set_up_logging
from letkd_keras.recipes import compare
from letkd_keras.recipes.trainings import training
from letkd_keras.recipes.workers import fit_on_workers

OPTIONS = (
    *("--train-examples", "48", "--test-examples", "21", "--pair", "resnet8-resnet8"),
    *("--epochs", "2", "--teacher-epochs", "2", "--batch-size", "16", "--ema", "0.8"),
    *("--methods", "student", "letkd1", "--class-weights", "balanced"),
    *("--templates", "8", "--subclasses", "2", "--components", "4", "--iterations", "3"),
)


def main(folder, step=0, options=()):
    compute_in_float64()

    class Killed(training.StopOnNonFiniteLoss):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            Killed.steps += 1
            if Killed.steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

    training.StopOnNonFiniteLoss = fit_on_workers.StopOnNonFiniteLoss = Killed
    compare.main([*OPTIONS, *options, "--out", folder])


if __name__ == "__main__":
    set_up_logging()
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0, sys.argv[3:])
