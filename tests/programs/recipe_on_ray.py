"""Run a small recipe whose trainings are shared by two workers of Ray on this machine.

    python recipe_on_ray.py FOLDER MARK

One of the workers kills itself before the second epoch of
the teacher, once: it leaves the file MARK.
"""

import os
import signal
import sys
from pathlib import Path

import keras
from recipe_on_workers import OPTIONS

from letkd_keras.commands.terminal_log import set_up_logging
from letkd_keras.recipes import compare


class DieOnce(keras.callbacks.Callback):
    """Kills one worker, once."""

    def on_epoch_begin(self, epoch, logs=None):
        mark = os.environ.get("DIE_ONCE")
        if mark and epoch and '"index": 1' in os.environ.get("TF_CONFIG", ""):
            try:
                Path(mark).touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder, mark):
    os.environ["DIE_ONCE"] = mark  # Ray's workers have it, too
    keras.config.set_floatx("float64")
    compare.main(
        [
            *(*OPTIONS, "--engine", "ray", "--workers", "2"),
            *("--callback", "recipe_on_ray:DieOnce", "--out", folder),
        ]
    )


if __name__ == "__main__":
    set_up_logging()
    main(*sys.argv[1:])
