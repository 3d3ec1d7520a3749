"""The argument `logit_losses` of distillers: losses on the logits in addition to their own."""

import keras

from letkd_keras.losses.logits_distillation import LogitsDistillationLoss
from letkd_keras.ranges import non_negative_number

_RESERVED = ("loss", "task_loss")


def check(logit_losses, other_names=()):
    """The losses and their weights, each by name.

    Args:
        logit_losses: Mapping of names to `(loss, weight)`, the loss a `keras.losses.Loss` called as
            `loss((teacher_logits, labels), student_logits, sample_weight)` or a
            `keras.distillation.LogitsDistillation`; or `None`.
        other_names: Names that are in use.

    Returns:
        `(losses, weights)`: two dictionaries with the same keys.

    Raises:
        ValueError: If an entry is no such pair, its loss is one of Keras' own or has no reduction,
            or its name is in use.
    """
    logit_losses = {} if logit_losses is None else logit_losses
    is_dictionary = isinstance(logit_losses, dict)
    if not is_dictionary or not all(isinstance(name, str) for name in logit_losses):
        raise ValueError(
            "`logit_losses` must be a dictionary of names and pairs (loss, weight). "
            f"Received: logit_losses={logit_losses!r}"
        )
    losses, weights = {}, {}
    for name, entry in logit_losses.items():
        if name in _RESERVED or name in other_names:
            raise ValueError(
                f"The names in `logit_losses` must not be {', '.join((*_RESERVED, *other_names))}. "
                f"Received: {name!r}"
            )
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            raise ValueError(
                f"`logit_losses[{name!r}]` must be a pair (loss, weight). Received: {entry!r}"
            )
        loss, weight = entry
        losses[name] = _checked_loss(loss, name)
        weights[name] = non_negative_number.check(weight, f"weight of {name}")
    return losses, weights


def _checked_loss(loss, name):
    """The loss of an entry; that of `keras.distillation` as a loss of this package."""
    if type(loss) is keras.distillation.LogitsDistillation:
        loss = LogitsDistillationLoss(loss.temperature, loss.loss)
    if not isinstance(loss, keras.losses.Loss):
        raise ValueError(
            f"The loss of `logit_losses[{name!r}]` must be a keras.losses.Loss or a "
            f"keras.distillation.LogitsDistillation. Received: {loss!r}"
        )
    if _is_of_keras(loss):
        raise ValueError(
            f"The loss of `logit_losses[{name!r}]` must take `y_true` as the pair "
            "(teacher_logits, labels), which Keras' own losses do not: use "
            "keras.distillation.LogitsDistillation(loss=...), a loss of letkd_keras.losses, or "
            f"a subclass of keras.losses.Loss with a `call` of its own. "
            f"Received: {type(loss).__name__}"
        )
    if loss.reduction in (None, "none"):
        raise ValueError(
            f"The loss of `logit_losses[{name!r}]` must have a reduction. "
            f"Received: {loss!r} with reduction={loss.reduction!r}"
        )
    return loss


def _is_of_keras(loss):
    """Whether Keras' own code computes the loss, which takes no pair as `y_true`."""
    # All losses of Keras have the same `call`; that of the base class computes nothing.
    own = (keras.losses.KLDivergence.call, keras.losses.Loss.call)
    return type(loss).__call__ is keras.losses.Loss.__call__ and type(loss).call in own


def serialize(losses, weights):
    """`logit_losses` as JSON types."""
    return {
        name: [keras.saving.serialize_keras_object(loss), weights[name]]
        for name, loss in losses.items()
    }


def deserialize(config, custom_objects=None):
    """`logit_losses` from what `serialize` gives."""
    return {
        name: (keras.saving.deserialize_keras_object(loss, custom_objects=custom_objects), weight)
        for name, (loss, weight) in config.items()
    }


def with_own(name, loss, weight, logit_losses):
    """`logit_losses` with a method's own loss first.

    Raises:
        ValueError: If the name is in use, or the method's `weight` is negative or not finite.
    """
    weight = non_negative_number.check(weight, "weight")
    check(logit_losses)
    if name in (logit_losses or {}):
        raise ValueError(f"The names in `logit_losses` must not be {name}. Received: {name!r}")
    return {name: (loss, weight), **(logit_losses or {})}
