import contextlib
import logging
import math
import time
from datetime import timedelta

import keras
import numpy as np

from letkd_keras.commands import progress

log = logging.getLogger(__name__)


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Raise as soon as a loss is not a number or infinite, naming it.

    `keras.callbacks.TerminateOnNaN` ends `fit` quietly, which leaves a broken student that looks
    like a finished one.

    Raises:
        FloatingPointError: Naming epoch, step and the losses concerned.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # Metrics may be vectors; losses are scalars.
        logs = (logs or {}).items()
        losses = {name: float(value) for name, value in logs if np.ndim(value) == 0}
        if math.isfinite(losses.get("loss", 0.0)):
            return
        broken = [f"{name} = {v}" for name, v in losses.items() if not math.isfinite(v)]
        raise FloatingPointError(
            f"The loss is not finite in epoch {self.epoch + 1}, step {batch + 1}: "
            f"{', '.join(broken)}. Try a smaller learning rate, and look at the data."
        )


class ReseedEachEpoch(keras.callbacks.Callback):
    """Start the generators of dropout and other random layers anew, by seed and epoch.

    The states of these generators are not saved with the weights. With this callback, a training
    that continues at the start of an epoch draws what it would have drawn without interruption.

    Args:
        seed: Seed, 0 or more.
    """

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        states = [v for v in self.model.variables if v.name == "seed_generator_state"]
        for number, state in enumerate(states):
            sequence = np.random.SeedSequence([self.seed, epoch, number])
            # Of 31 bits, since the state is a signed integer on some devices.
            state.assign(sequence.generate_state(2) >> 1)


class ShowProgress(keras.callbacks.Callback):
    """One bar for a whole training, with epoch, time left, loss and accuracies.

    Where no bar can be shown, a line is logged for each epoch, or for some of many. The others are
    in the log file. The bar is removed at the end of the training, or of a `with` statement, which
    also ends where a training fails.

    Args:
        evaluated: What the images are called that are evaluated after each epoch.
        most_lines: Number of epochs that are logged, at most, besides the last one.
    """

    def __init__(self, evaluated="validation", most_lines=20):
        super().__init__()
        self.evaluated = evaluated
        self.most_lines = most_lines
        self._open = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._open.close()

    def on_train_begin(self, logs=None):
        self._began, self._last = None, {}

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._steps = epoch, self.params["steps"] or 1
        if self._began is None:
            self._began = time.monotonic(), epoch
            self._bars = self._open.enter_context(progress.bars())
            total = self.params["epochs"] * self._steps
            self._task = self._bars.add_task("", total=total, completed=epoch * self._steps)
        self._show(0)

    def on_train_batch_end(self, batch, logs=None):
        # Where the number of steps is unknown, an epoch is one step of the bar.
        self._show(batch + 1 if self.params["steps"] else 0, logs)

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        epochs, (began, first) = self.params["epochs"], self._began
        self._show(self._steps, logs)
        seconds = (time.monotonic() - began) / (epoch + 1 - first) * (epochs - epoch - 1)
        left = f", {timedelta(seconds=round(seconds))} left" if epoch + 1 < epochs else ""
        every = -(-epochs // self.most_lines)
        is_line = (epoch + 1) % every == 0 or epoch + 1 == epochs
        level = logging.INFO if is_line and not progress.is_shown() else logging.DEBUG
        names = {"accuracy": "accuracy", "val_accuracy": f"{self.evaluated} accuracy"}
        figures = _figures(logs, names, 4)
        log.log(level, "epoch %d/%d, %s%s", epoch + 1, epochs, ", ".join(figures), left)

    def on_train_end(self, logs=None):
        self._open.close()

    def _show(self, step, logs=None):
        # The evaluation of the epoch before is shown during an epoch.
        self._last |= logs or {}
        names = {"accuracy": "train", "val_accuracy": self.evaluated.replace("validation", "val")}
        self._bars.update(
            self._task,
            description=f"epoch {self._epoch + 1}/{self.params['epochs']}",
            completed=self._epoch * self._steps + step,
            note="  ".join(_figures(self._last, names, 3)),
        )


def _figures(logs, names, digits):
    """Loss and accuracies as texts, with names of the accuracies."""
    figures = [f"loss {float(logs['loss']):.{digits}f}"] if "loss" in logs else []
    return figures + [
        f"{name} {100 * float(logs[key]):.{digits - 2}f}%"
        for key, name in names.items()
        if key in logs
    ]
