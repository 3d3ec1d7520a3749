import keras

from letkd_keras.losses import teacher_logits
from letkd_keras.losses.logit_standardization import softened
from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import non_negative_number, positive_number


@keras.saving.register_keras_serializable("letkd_keras")
class DKDLoss(Loss):
    """Decoupled knowledge distillation: target-class and non-target-class parts, weighed apart.

        T^2 (alpha KL(b_teacher || b_student) + beta KL(q_teacher || q_student))

    with b = (p_t, 1 - p_t) the softened probabilities of the target class t and of all others, and
    q the softmax over the others alone (Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022,
    equations 5 to 7). With 1 - p_t of the teacher for beta and 1 for alpha the sum is Hinton's loss
    (equation 4).

    Args:
        alpha: Weight of the target-class part (TCKD), 0 or more.
        beta: Weight of the non-target-class part (NCKD), 0 or more. The authors choose it by the
            teacher: 2 for the narrow ResNets, 6 for a wide ResNet under a wide ResNet, 8 for the
            others. With two classes this part is always 0.
        temperature: T, more than 0.
        standardize_logits: Whether both networks' logits are standardized first (Sun et al., CVPR
            2024, see `letkd_keras.losses.standardize_logits`). T is 2 there.
        reduction: Keras' reduction over the samples.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.

    Call arguments:
        y_true: `(teacher's logits [B, classes], labels)`, the labels integers [B] or [B, 1] or
            distributions [B, classes], whose largest entry is the target class.
        y_pred: Student's logits [B, classes].
        sample_weight: Weights [B] of the samples, or `None`.

    Raises:
        ValueError: If `alpha`, `beta` or `temperature` is out of its range.
    """

    def __init__(
        self,
        alpha=1.0,
        beta=8.0,
        temperature=4.0,
        standardize_logits=False,
        reduction="sum_over_batch_size",
        name="dkd",
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.alpha = non_negative_number.check(alpha, "alpha")
        self.beta = non_negative_number.check(beta, "beta")
        self.temperature = positive_number.check(temperature, "temperature")
        self.standardize_logits = bool(standardize_logits)

    def call(self, y_true, y_pred):
        teacher, student, labels = teacher_logits.split(y_true, y_pred)
        target = teacher_logits.target_mask(labels, teacher.shape[-1])
        b_teacher, q_teacher = self._log_probabilities(teacher, target)
        b_student, q_student = self._log_probabilities(student, target)
        tckd = teacher_logits.kl_divergence(b_teacher, b_student)
        nckd = teacher_logits.kl_divergence(q_teacher, q_student)
        return self.temperature**2 * (self.alpha * tckd + self.beta * nckd)

    def _log_probabilities(self, logits, target):
        """Logarithms of b [B, 2] and of q [B, classes]."""
        logits = softened(logits, self.temperature, self.standardize_logits)
        return (
            teacher_logits.log_binary(logits, target),
            teacher_logits.log_softmax_without(logits, target),
        )
