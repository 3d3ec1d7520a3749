"""Running averages of batch normalization that fit the length of a training."""

import logging

import keras

from letkd_keras.functional.graph import layers_inside
from letkd_keras.ranges import positive_integer

log = logging.getLogger(__name__)

# Averages over a 20th of the steps have forgotten their initial values at the end, to a share of
# e ** -20, and are those of nearly the same weights.
_WINDOWS = 20
# That of PyTorch's layers, which average over about 10 steps. Fewer would be noisy.
_SMALLEST = 0.9


def limit_normalization_momentum(model, steps):
    """Reduce the momentum of batch normalizations whose averages are too slow for a training.

    A batch normalization uses running averages when a model is evaluated. They are averages over
    about `1 / (1 - momentum)` steps: 1,000 in the MobileNetV3 of `keras.applications`. After a
    training of fewer steps they are still close to their initial values. The model then has a high
    accuracy in training, and that of chance in evaluation. Here averages are limited to a 20th of
    the steps, but not to fewer than 10 steps, a momentum of 0.9. Layers that are not trained keep
    their momentum, since they keep their averages. The recipes call this before each training.

    Example:
        ```python
        letkd_keras.limit_normalization_momentum(student, steps=60 * len(train_ds))
        ```

    Args:
        model: `keras.Model` that is trained next. Its layers, and those of models inside it, are
            changed. A compiled model must be compiled again.
        steps: Steps of the whole training, at least 1.

    Raises:
        ValueError: If `steps` is no positive integer.
    """
    steps = positive_integer.check(steps, "steps")
    largest = max(_SMALLEST, 1 - _WINDOWS / steps)
    limited = [
        layer
        for layer in layers_inside(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        and layer.momentum > largest
    ]
    if not limited:
        return
    before = max(layer.momentum for layer in limited)
    for layer in limited:
        layer.momentum = largest
    log.info(
        "momentum of %d batch normalizations: %.4g in place of %.4g, because the training has only "
        "%d steps",
        len(limited),
        largest,
        before,
        steps,
    )
