import keras
from keras import ops

from letkd_keras.distillers.teacher_distiller import TeacherDistiller


@keras.saving.register_keras_serializable("letkd_keras")
class DecoupledKLDivergence(keras.losses.Loss):
    """Target-class and non-target-class parts of the soft-label KL, weighed apart.

        T^2 (alpha KL(b_T || b_S) + beta KL(q_T || q_S))

    with b = (p_t, 1 - p_t) the probabilities of the target class t and of all others, and q the
    softmax over the others alone (Zhao et al. 2022, equations 5 to 7). All is computed from
    logarithms, so that a teacher that is sure gives finite values.

    Args:
        alpha: Weight of the target-class part (TCKD).
        beta: Weight of the non-target-class part (NCKD). With 1 - p_t of the teacher in its place
            the sum is Hinton's loss (equation 4).
        temperature: T, more than 0.
        reduction: Keras' reduction over the images.
        name: Name of the loss.
        dtype: Dtype of the computation.

    Call arguments:
        y_true: `(teacher's logits [B, classes], one-hot labels [B, classes])`.
        y_pred: Student's logits [B, classes].
    """

    def __init__(
        self,
        alpha=1.0,
        beta=8.0,
        temperature=4.0,
        reduction="sum_over_batch_size",
        name="decoupled_kl",
        dtype=None,
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        if not temperature > 0:
            raise ValueError(
                f"`temperature` must be more than 0. Received: temperature={temperature}"
            )
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.temperature = float(temperature)

    def call(self, y_true, y_pred):
        teacher, target = y_true
        target_of_teacher, others_of_teacher = self._log_probabilities(teacher, target)
        target_of_student, others_of_student = self._log_probabilities(y_pred, target)
        tckd = _kl(target_of_teacher, target_of_student)
        nckd = _kl(others_of_teacher, others_of_student)
        return self.temperature**2 * (self.alpha * tckd + self.beta * nckd)

    def _log_probabilities(self, logits, target):
        """Logarithms of b [B, 2] and q [B, classes], the latter hugely negative at t."""
        logits = logits / self.temperature
        others = ops.where(target > 0, -1e9, logits)
        own = ops.sum(target * logits, axis=-1)
        all_others = ops.logsumexp(others, axis=-1)
        return ops.log_softmax(ops.stack([own, all_others], axis=-1)), ops.log_softmax(others)

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "temperature": self.temperature,
        }


def _kl(log_p, log_q):
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


@keras.saving.register_keras_serializable("letkd_keras")
class DKD(TeacherDistiller):
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022, equation 7).

        loss = CE + ramp * T^2 (alpha TCKD + beta NCKD)

    Args:
        student: Functional `keras.Model` from images to logits; trained in place.
        teacher: Functional `keras.Model` from the same images to logits of the same classes.
        alpha: Weight of the target-class part; 1 in the paper.
        beta: Weight of the non-target-class part; 1 to 8 in the paper, by the teacher: 2 for the
            narrow ResNets, 6 for a wide ResNet under a wide ResNet, 8 for the others.
        temperature: T; 4 in the paper.
        warm_up_steps: Steps in which the distillation loss grows linearly to its full weight: 20 of
            240 epochs in the paper, whose program does it epoch by epoch. 0 for none.
        **kwargs: Options of `TeacherDistiller`.

    Raises:
        ValueError: If the numbers of classes differ or a model is not functional.
    """

    def __init__(
        self,
        student,
        teacher=None,
        alpha=1.0,
        beta=8.0,
        temperature=4.0,
        warm_up_steps=0,
        **kwargs,
    ):
        super().__init__(student, teacher, {"dkd": 1.0}, **kwargs)
        self.decoupled_kl = DecoupledKLDivergence(alpha, beta, temperature)
        self.warm_up_steps = int(warm_up_steps)

    def distillation_weight(self, name):
        if not self.warm_up_steps:
            return 1.0
        step = ops.cast(self.optimizer.iterations, "float32") + 1.0
        return ops.minimum(step / self.warm_up_steps, 1.0)

    def distillation_losses(self, learned, taught, sample_weight=None):
        teacher = taught["logits"]
        target = one_hot(taught["labels"], teacher.shape[-1])
        return {"dkd": self.decoupled_kl((teacher, target), learned["logits"], sample_weight)}

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.decoupled_kl.alpha,
            "beta": self.decoupled_kl.beta,
            "temperature": self.decoupled_kl.temperature,
            "warm_up_steps": self.warm_up_steps,
        }


def one_hot(labels, classes):
    """One-hot labels [B, classes] of integers [B] or [B, 1] or of distributions [B, classes]."""
    if len(labels.shape) == 2 and labels.shape[1] == classes:
        labels = ops.argmax(labels, axis=-1)
    return ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), classes, dtype="float32")
