import keras
from keras import ops

from letkd_keras.distillers.teacher_distiller import TeacherDistiller


@keras.saving.register_keras_serializable("letkd_keras")
class SimilarityError(keras.losses.Loss):
    """Squared Frobenius distance of the batch's similarity matrices, over B^2.

    The matrix of features [B, ...] is F F^T, F its rows flattened, with rows l2-normalised (Tung
    and Mori 2019, equations 1 to 4).
    """

    def call(self, y_true, y_pred):
        difference = _similarities(y_true) - _similarities(y_pred)
        # The mean over the images divides by B once more.
        return ops.mean(ops.square(difference), axis=-1)


def _similarities(features):
    flat = ops.reshape(features, (ops.shape(features)[0], -1))
    return ops.normalize(ops.matmul(flat, ops.transpose(flat)), axis=-1)


@keras.saving.register_keras_serializable("letkd_keras")
class SP(TeacherDistiller):
    """Similarity-preserving distillation (Tung and Mori, ICCV 2019, equation 5).

        loss = CE + weight * ||G_T - G_S||_F^2 / B^2, summed over the taps

    G tells which images of a batch activate alike, so that neither channels nor grids need agree.

    Args:
        student: Functional `keras.Model` from images to logits; trained in place.
        teacher: Functional `keras.Model` from the same images to logits of the same classes.
        student_layers: Layers of the student; the last feature map in RepDistiller.
        teacher_layers: As many of the teacher.
        weight: Weight of the loss; 3000 in the paper and in RepDistiller.
        **kwargs: Further options of `TeacherDistiller`.

    Raises:
        ValueError: As `TeacherDistiller`.
    """

    def __init__(self, student, teacher=None, *, weight=3000.0, **kwargs):
        super().__init__(student, teacher, {"sp": weight}, **kwargs)
        self.similarity_error = SimilarityError(name="similarity_error")

    def distillation_losses(self, learned, taught, sample_weight=None):
        errors = [
            self.similarity_error(theirs, ours, sample_weight)
            for ours, theirs in self.tap_pairs(learned, taught)
        ]
        return {"sp": sum(errors)}

    def get_config(self):
        return {**super().get_config(), "weight": self.distillation_weights["sp"]}
