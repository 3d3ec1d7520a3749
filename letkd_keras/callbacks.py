import contextlib
import logging
import math
import time
from datetime import timedelta

import keras
import numpy as np

from letkd_keras.commands import progress

log = logging.getLogger(__name__)

# Epochs of a training that are logged, at most, besides the last one.
_MOST_LINES = 20
# From here on a loss is shown with an exponent.
_LARGE_LOSS = 1e4
# More than a loss gains whose weight grows in the first epochs, as that of DKD does.
_EXPLOSION = 100
_REMEDIES = (
    "Try a tenth of the learning rate, `global_clipnorm=1` in the optimizer, or AdamW, and look at "
    "the data."
)


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Raise as soon as a loss is not a number or infinite, naming it; warn if it explodes before.

    `keras.callbacks.TerminateOnNaN` ends `fit` quietly, which leaves a broken student that looks
    like a finished one. A loss may also stay finite and reach 1e25. Such a training is warned about
    once, after the first epoch whose loss is above 100 and above 100 times the loss with which
    `fit` began.

    Args:
        remedies: What to do, one or more sentences; `None` for advice to somebody who calls `fit`.

    Raises:
        FloatingPointError: Naming epoch, step and the losses concerned.
    """

    def __init__(self, remedies=None):
        super().__init__()
        self.remedies = remedies or _REMEDIES
        self._largest = None

    def on_train_begin(self, logs=None):
        self._largest = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        # Metrics may be vectors; losses are scalars.
        logs = (logs or {}).items()
        losses = {name: float(value) for name, value in logs if np.ndim(value) == 0}
        if math.isfinite(losses.get("loss", 0.0)):
            if self._largest is None and "loss" in losses:
                # A trained model that is trained further may begin with a loss of almost 0.
                self._largest = _EXPLOSION * max(losses["loss"], 1.0)
            return
        broken = [f"{name} = {v}" for name, v in losses.items() if not math.isfinite(v)]
        raise FloatingPointError(
            f"The loss is not finite in epoch {self.epoch + 1}, step {batch + 1}: "
            f"{', '.join(broken)}. {self.remedies}"
        )

    def on_epoch_end(self, epoch, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if self._largest is not None and loss > self._largest:
            log.warning(
                "The loss of epoch %d, %.3g, is more than %d times that at the beginning: the "
                "training diverges. %s",
                epoch + 1,
                loss,
                _EXPLOSION,
                self.remedies,
            )
            self._largest = math.inf


class ReseedEachEpoch(keras.callbacks.Callback):
    """Seed the generators of dropout and other random layers by seed and epoch.

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
    """

    def __init__(self, evaluated="validation"):
        super().__init__()
        self.evaluated = evaluated
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
            self._task = self._bars.add_task("", total=total)
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
        every = -(-epochs // _MOST_LINES)
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
    figures = []
    if "loss" in logs:
        loss = float(logs["loss"])
        # The loss of a training that diverges has too many digits to be read.
        figures = [f"loss {loss:.{digits}{'f' if abs(loss) < _LARGE_LOSS else 'g'}}"]
    return figures + [
        f"{name} {100 * float(logs[key]):.{digits - 2}f}%"
        for key, name in names.items()
        if key in logs
    ]
