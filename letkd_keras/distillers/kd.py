import keras

from letkd_keras.distillers.teacher_distiller import TeacherDistiller


@keras.saving.register_keras_serializable("letkd_keras")
class KD(TeacherDistiller):
    """Knowledge distillation by soft labels alone (Hinton, Vinyals, Dean 2015, section 2).

        loss = task_weight * CE + kd_weight * T^2 KL(teacher / T || student / T)

    Any other distiller takes `kd_weight` too, and adds this loss to its own.

    Args:
        student: Functional `keras.Model` from images to logits; trained in place.
        teacher: Functional `keras.Model` from the same images to logits of the same classes.
        kd_temperature: T; 4 in RepDistiller, whose numbers the letKD paper compares with.
        kd_weight: Weight of the distillation loss; 0.9 there.
        task_weight: Weight of the cross-entropy; 0.1 there.
        **kwargs: Options of `TeacherDistiller`.

    Raises:
        ValueError: If the numbers of classes differ or a model is not functional.
    """

    def __init__(
        self, student, teacher=None, kd_temperature=4.0, kd_weight=0.9, task_weight=0.1, **kwargs
    ):
        super().__init__(
            student,
            teacher,
            {},
            kd_temperature=kd_temperature,
            kd_weight=kd_weight,
            task_weight=task_weight,
            **kwargs,
        )

    def distillation_losses(self, learned, taught, sample_weight=None):
        return {}
