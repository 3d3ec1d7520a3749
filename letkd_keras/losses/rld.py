import keras
from keras import ops

from letkd_keras.losses import teacher_logits
from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import non_negative_number, positive_number


@keras.saving.register_keras_serializable("letkd_keras")
class RLDLoss(Loss):
    """Refined logit distillation: a teacher's mistakes are kept from the student.

        alpha T_s^2 KL(b_teacher || b_student) + beta T^2 KL(m_teacher || m_student)

    The first part matches the student's confidence in the *true* class with the teacher's in the
    class it predicts: b_teacher = (max p, 1 - max p) and b_student = (p_t, 1 - p_t) for the target
    class t, both at the temperature T_s (sample confidence, SCD). The second is over the classes
    that the teacher ranks below the target: m is the softmax over those alone, at the temperature T
    (masked correlation, MCD); it is 0 where the target is the teacher's last. Sun et al.,
    "Knowledge Distillation with Refined Logits", ICCV 2025; the form is the authors' program's.

    Args:
        alpha: Weight of the first part, 0 or more.
        beta: Weight of the second part, 0 or more.
        temperature: T, more than 0.
        confidence_temperature: T_s, more than 0; `None` for `temperature`, as in the example of the
            authors' program.
        reduction: Keras' reduction over the samples.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.

    Call arguments:
        y_true: `(teacher's logits [B, classes], labels)`, the labels integers [B] or [B, 1] or
            distributions [B, classes], whose largest entry is the target class.
        y_pred: Student's logits [B, classes].
        sample_weight: Weights [B] of the samples, or `None`.

    Raises:
        ValueError: If `alpha`, `beta` or a temperature is out of its range.
    """

    def __init__(
        self,
        alpha=1.0,
        beta=8.0,
        temperature=4.0,
        confidence_temperature=None,
        reduction="sum_over_batch_size",
        name="rld",
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.alpha = non_negative_number.check(alpha, "alpha")
        self.beta = non_negative_number.check(beta, "beta")
        self.temperature = positive_number.check(temperature, "temperature")
        if confidence_temperature is None:
            confidence_temperature = self.temperature
        self.confidence_temperature = positive_number.check(
            confidence_temperature, "confidence_temperature"
        )

    def call(self, y_true, y_pred):
        teacher, student, labels = teacher_logits.split(y_true, y_pred)
        classes = teacher.shape[-1]
        target = teacher_logits.target_mask(labels, classes)
        predicted = teacher_logits.target_mask(ops.argmax(teacher, axis=-1), classes)
        scd = teacher_logits.kl_divergence(
            teacher_logits.log_binary(teacher / self.confidence_temperature, predicted),
            teacher_logits.log_binary(student / self.confidence_temperature, target),
        )
        of_target = ops.sum(ops.where(target, teacher, 0.0), axis=-1, keepdims=True)
        not_below = ops.greater_equal(teacher, of_target)
        mcd = teacher_logits.kl_divergence(
            teacher_logits.log_softmax_without(teacher / self.temperature, not_below),
            teacher_logits.log_softmax_without(student / self.temperature, not_below),
        )
        return (
            self.alpha * self.confidence_temperature**2 * scd
            + self.beta * self.temperature**2 * mcd
        )
