import keras
from keras import ops


@keras.saving.register_keras_serializable("letkd_keras")
class TorchSGD(keras.optimizers.SGD):
    """Stochastic gradient descent with PyTorch's meaning of momentum and weight decay.

    For gradient g, variable w, velocity v and the rate lr of the step:

        g = g + weight_decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v)        (Nesterov; otherwise w - lr * v)

    `keras.optimizers.SGD` folds the rate into the velocity, so that a drop of the rate acts only
    as the old velocity dies out, and decouples the weight decay from momentum (with momentum 0.9
    about ten times weaker). The published schedules assume PyTorch's.

    Args:
        learning_rate: Rate, or a `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Between 0 and 1.
        nesterov: Whether the step looks ahead.
        weight_decay: Factor, 0 or more, of every trainable variable added to its gradient - biases,
            scales and batch normalisation too, unless `exclude_from_weight_decay` says otherwise.
        name: Name of the optimizer.
        **kwargs: What every Keras optimizer takes (clipping, EMA, loss scale, accumulation).

    Raises:
        ValueError: If `weight_decay` is negative.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        name="sgd",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, name=name, **kwargs
        )
        weight_decay = weight_decay or 0.0
        if weight_decay < 0:
            raise ValueError(
                f"`weight_decay` must be 0 or more. Received: weight_decay={weight_decay}"
            )
        # Not the base class's `weight_decay`, which would decay a second time, decoupled.
        self.coupled_weight_decay = weight_decay

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if self.coupled_weight_decay and self._use_weight_decay(variable):
            gradient = gradient + ops.cast(self.coupled_weight_decay, variable.dtype) * variable
        step = gradient
        if self.momentum:
            momentum = ops.cast(self.momentum, variable.dtype)
            velocity = self.momentums[self._get_variable_index(variable)]
            step = momentum * velocity + gradient
            self.assign(velocity, step)
            if self.nesterov:
                step = gradient + momentum * step
        self.assign_sub(variable, learning_rate * step)

    def get_config(self):
        return {**super().get_config(), "weight_decay": self.coupled_weight_decay}
