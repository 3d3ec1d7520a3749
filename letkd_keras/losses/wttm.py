import keras
from keras import ops

from letkd_keras.losses import teacher_logits
from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import positive_number


@keras.saving.register_keras_serializable("letkd_keras")
class WTTMLoss(Loss):
    """Weighted transformed teacher matching.

        U KL(p^g / U || softmax(student)),   U = sum_k p_k^g

    with p = softmax(teacher) and g the power. The transformed teacher is softmax(g teacher), the
    teacher at the temperature 1 / g; the student has no temperature, and there is no temperature
    squared. The power sum U is 1 where the teacher is certain and at most `classes`^(1 - g) where
    it is not. So samples count for more if the teacher is less certain (Zheng and Yang, "Knowledge
    Distillation Based on Transformed Teacher Matching", ICLR 2024). The labels are not used.

    Args:
        power: g, more than 0; below 1 it makes the teacher smoother.
        reduction: Keras' reduction over the samples.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.

    Call arguments:
        y_true: `(teacher's logits [B, classes], labels)`.
        y_pred: Student's logits [B, classes].
        sample_weight: Weights [B] of the samples, or `None`.

    Raises:
        ValueError: If `power` is not more than 0.
    """

    def __init__(self, power=0.2, reduction="sum_over_batch_size", name="wttm", dtype=None):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.power = positive_number.check(power, "power")

    def call(self, y_true, y_pred):
        teacher, student, _ = teacher_logits.split(y_true, y_pred)
        transformed = self.power * ops.log_softmax(teacher)
        log_power_sum = ops.logsumexp(transformed, axis=-1, keepdims=True)
        divergence = teacher_logits.kl_divergence(
            transformed - log_power_sum, ops.log_softmax(student)
        )
        return ops.exp(ops.squeeze(log_power_sum, axis=-1)) * divergence
