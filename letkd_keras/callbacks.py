import math

import keras
import numpy as np


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


class ReseedEachEpoch(keras.callbacks.Callback):
    """Start the generators of dropout and other random layers anew, by seed and epoch.

    Their states are no weights and are not saved with them. So a training that goes on at the
    start of an epoch draws what it would have drawn without the interruption.

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
