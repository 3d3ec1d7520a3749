import keras
from keras import ops

from letkd_keras.distillers.teacher_distiller import TeacherDistiller


@keras.saving.register_keras_serializable("letkd_keras")
class SoftLabelKLDivergence(keras.losses.Loss):
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) of logits (Hinton et al. 2015).

    Args:
        temperature: T, more than 0.
        reduction: Keras' reduction over the images.
        name: Name of the loss.
        dtype: Dtype of the computation.
    """

    def __init__(
        self, temperature=4.0, reduction="sum_over_batch_size", name="soft_label_kl", dtype=None
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        if not temperature > 0:
            raise ValueError(
                f"`temperature` must be more than 0. Received: temperature={temperature}"
            )
        self.temperature = temperature

    def call(self, y_true, y_pred):
        teacher = ops.log_softmax(y_true / self.temperature)
        student = ops.log_softmax(y_pred / self.temperature)
        return self.temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable("letkd_keras")
class KD(TeacherDistiller):
    """Knowledge distillation by soft labels (Hinton, Vinyals, Dean 2015, section 2).

        loss = task_weight * CE + weight * T^2 KL(teacher / T || student / T)

    Args:
        student: Functional `keras.Model` from images to logits; trained in place.
        teacher: Functional `keras.Model` from the same images to logits of the same classes.
        temperature: T; 4 in RepDistiller, whose numbers the letKD paper compares with.
        weight: Weight of the distillation loss; 0.9 there.
        task_weight: Weight of the cross-entropy; 0.1 there.
        **kwargs: Options of `TeacherDistiller`.

    Raises:
        ValueError: If the numbers of classes differ or a model is not functional.
    """

    def __init__(
        self, student, teacher=None, temperature=4.0, weight=0.9, task_weight=0.1, **kwargs
    ):
        super().__init__(student, teacher, {"kd": weight}, task_weight=task_weight, **kwargs)
        self.soft_label_kl = SoftLabelKLDivergence(temperature)

    def distillation_losses(self, learned, taught, sample_weight=None):
        return {"kd": self.soft_label_kl(taught["logits"], learned["logits"], sample_weight)}

    def get_config(self):
        return {
            **super().get_config(),
            "temperature": self.soft_label_kl.temperature,
            "weight": self.distillation_weights["kd"],
        }
