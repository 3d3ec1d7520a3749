"""Losses on the logits, which any distiller can add to its own."""

import keras
from keras import ops

from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import non_negative_number, positive_number

_RESERVED = ("loss", "task_loss")


@keras.saving.register_keras_serializable("letkd_keras")
class LogitsDistillationLoss(Loss):
    """A `keras.distillation.LogitsDistillation` as a loss of this package.

    The value is a mean over the batch of the inner loss of `teacher / T` and `student / T`, for a
    KL divergence of their softmax, times T squared: what Keras documents. Unlike Keras' own, it
    respects a `sample_weight` and divides by the number of replicas. The inner loss's own reduction
    is not used. A KL divergence given by its name, the default, is the same as the class; Keras
    3.15 applies the function of that name to the logits themselves.

    Args:
        temperature: T, more than 0.
        loss: Inner loss: a `keras.losses.Loss`, a function or a name.
        reduction: Keras' reduction over the samples.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.

    Call arguments:
        y_true: `(teacher's logits [B, classes], labels)`; the labels are not used.
        y_pred: Student's logits [B, classes].

    Raises:
        ValueError: If `temperature` is not more than 0.
    """

    def __init__(
        self,
        temperature=3.0,
        loss="kl_divergence",
        reduction="sum_over_batch_size",
        name="logits_distillation",
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.temperature = positive_number.check(temperature, "temperature")
        self.loss = keras.losses.get(loss)

    def call(self, y_true, y_pred):
        teacher, student = (logits / self.temperature for logits in (y_true[0], y_pred))
        teacher = ops.stop_gradient(teacher)
        inner = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        if self.loss is keras.losses.kl_divergence or isinstance(
            self.loss, keras.losses.KLDivergence
        ):
            return self.temperature**2 * inner(ops.softmax(teacher), ops.softmax(student))
        return inner(teacher, student)

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "loss": keras.losses.serialize(self.loss),
        }


def check_logit_losses(logit_losses, other_names=()):
    """The losses and their weights, each by name.

    Args:
        logit_losses: Mapping of names to `(loss, weight)`, the loss a `keras.losses.Loss` called as
            `loss((teacher_logits, labels), student_logits, sample_weight)` or a
            `keras.distillation.LogitsDistillation`; or `None`.
        other_names: Names that are in use.

    Returns:
        `(losses, weights)`: two dictionaries with the same keys.

    Raises:
        ValueError: If an entry is no such pair, its loss has no reduction, or its name is in use.
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
        if type(loss) is keras.distillation.LogitsDistillation:
            loss = LogitsDistillationLoss(loss.temperature, loss.loss)
        if not isinstance(loss, keras.losses.Loss):
            raise ValueError(
                f"The loss of `logit_losses[{name!r}]` must be a keras.losses.Loss or a "
                f"keras.distillation.LogitsDistillation. Received: {loss!r}"
            )
        if loss.reduction in (None, "none"):
            raise ValueError(
                f"The loss of `logit_losses[{name!r}]` must have a reduction. "
                f"Received: {loss!r} with reduction={loss.reduction!r}"
            )
        losses[name] = loss
        weights[name] = non_negative_number.check(weight, f"weight of {name}")
    return losses, weights


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
    check_logit_losses(logit_losses)
    if name in (logit_losses or {}):
        raise ValueError(f"The names in `logit_losses` must not be {name}. Received: {name!r}")
    return {name: (loss, weight), **(logit_losses or {})}
