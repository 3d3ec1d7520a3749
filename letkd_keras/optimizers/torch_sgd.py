import math
import numbers
from collections.abc import Mapping

import keras
from keras import ops

from letkd_keras.ranges import non_negative_number, positive_number


@keras.saving.register_keras_serializable("letkd_keras")
class TorchSGD(keras.optimizers.SGD):
    """Stochastic gradient descent with PyTorch's meaning of momentum and weight decay.

    For gradient g, variable w, velocity v and the rate lr of the step:

        g = g + weight_decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v)        (Nesterov; otherwise w - lr * v)

    `keras.optimizers.SGD` multiplies the gradient by the rate before it enters the velocity, so a
    drop of the rate takes effect only after several steps. It also decouples the weight decay from
    the momentum, which makes it about ten times weaker with momentum 0.9. The published schedules
    assume PyTorch's meaning.

    Args:
        learning_rate: Rate, more than 0, or a `keras.optimizers.schedules.LearningRateSchedule`.
        momentum: From 0 to 1.
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Factor, 0 or more, with which every trainable variable is added to its
            gradient. That includes biases, scales and batch normalization, unless
            `exclude_from_weight_decay` excludes them.
        learning_rate_factors: Dictionary from a part of a variable's path, such as the name of a
            layer, to the factor of the rate of these variables, more than 0. They are then
            changed as by a parameter group of another rate in PyTorch. A part that is in no path
            changes nothing, so that students with and without a layer take one dictionary. `None`
            for none.
        name: Name of the optimizer.
        **kwargs: Arguments of every Keras optimizer (clipping, EMA, loss scale, accumulation).

    Raises:
        ValueError: If a number is not finite or out of its range, or `learning_rate_factors` is no
            such dictionary.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        learning_rate_factors=None,
        name="sgd",
        **kwargs,
    ):
        if isinstance(learning_rate, numbers.Number):
            learning_rate = positive_number.check(learning_rate, "learning_rate")
        momentum = non_negative_number.check(momentum, "momentum")
        weight_decay = non_negative_number.check(weight_decay or 0.0, "weight_decay")
        super().__init__(
            learning_rate=learning_rate, momentum=momentum, nesterov=nesterov, name=name, **kwargs
        )
        # Keras applies its decoupled decay to every optimizer whose attribute `weight_decay` is
        # set, and has no public way to turn that off. So the attribute has another name.
        self.coupled_weight_decay = weight_decay
        factors = {} if learning_rate_factors is None else learning_rate_factors
        if not isinstance(factors, Mapping) or not all(isinstance(part, str) for part in factors):
            raise ValueError(
                "`learning_rate_factors` must be a dictionary from parts of paths to factors. "
                f"Received: learning_rate_factors={factors!r}"
            )
        self.learning_rate_factors = {
            part: positive_number.check(factor, f"learning_rate_factors[{part!r}]")
            for part, factor in factors.items()
        }

    def build(self, variables):
        super().build(variables)
        # TensorFlow gives `update_step` its own variables, which have no path.
        self._factors = [
            math.prod(
                factor for part, factor in self.learning_rate_factors.items() if part in v.path
            )
            for v in variables
        ]

    def update_step(self, gradient, variable, learning_rate):
        learning_rate = ops.cast(learning_rate, variable.dtype)
        index = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        if self.coupled_weight_decay and self._use_weight_decay(variable):
            gradient = gradient + ops.cast(self.coupled_weight_decay, variable.dtype) * variable
        step = gradient
        if self.momentum:
            momentum = ops.cast(self.momentum, variable.dtype)
            velocity = self.momentums[index]
            step = momentum * velocity + gradient
            self.assign(velocity, step)
            if self.nesterov:
                step = gradient + momentum * step
        self.assign_sub(variable, self._factors[index] * learning_rate * step)

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay": self.coupled_weight_decay,
            "learning_rate_factors": self.learning_rate_factors,
        }
