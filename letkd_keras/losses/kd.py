import keras
from keras import ops

from letkd_keras.losses import teacher_logits
from letkd_keras.losses.logit_standardization import softened
from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import positive_number


@keras.saving.register_keras_serializable("letkd_keras")
class KDLoss(Loss):
    """Hinton's knowledge distillation: KL divergence of the softened probabilities.

        T^2 KL(softmax(teacher / T) || softmax(student / T))

    (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015). T squared keeps the
    gradient's size when T changes. The labels are not used.

    Args:
        temperature: T, more than 0.
        standardize_logits: Whether both networks' logits are standardized first (Sun et al., CVPR
            2024, see `letkd_keras.losses.standardize_logits`). T is 2 there.
        reduction: Keras' reduction over the samples.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.

    Call arguments:
        y_true: `(teacher's logits [B, classes], labels)`.
        y_pred: Student's logits [B, classes].
        sample_weight: Weights [B] of the samples, or `None`.

    Raises:
        ValueError: If `temperature` is not more than 0.
    """

    def __init__(
        self,
        temperature=4.0,
        standardize_logits=False,
        reduction="sum_over_batch_size",
        name="kd",
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.temperature = positive_number.check(temperature, "temperature")
        self.standardize_logits = bool(standardize_logits)

    def call(self, y_true, y_pred):
        teacher, student, _ = teacher_logits.split(y_true, y_pred)
        return self.temperature**2 * teacher_logits.kl_divergence(
            self._log_probabilities(teacher), self._log_probabilities(student)
        )

    def _log_probabilities(self, logits):
        return ops.log_softmax(softened(logits, self.temperature, self.standardize_logits))
