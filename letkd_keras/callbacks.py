import math

import keras


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
        losses = {name: float(value) for name, value in (logs or {}).items()}
        if math.isfinite(losses.get("loss", 0.0)):
            return
        broken = [f"{name} = {v}" for name, v in losses.items() if not math.isfinite(v)]
        raise FloatingPointError(
            f"The loss is not finite in epoch {self.epoch + 1}, step {batch + 1}: "
            f"{', '.join(broken)}. Try a smaller learning rate, and look at the data."
        )
