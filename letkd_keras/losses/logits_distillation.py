import keras
from keras import ops

from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import positive_number


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
        return {**super().get_config(), "loss": keras.losses.serialize(self.loss)}
