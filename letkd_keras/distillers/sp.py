import keras
from keras import ops

from letkd_keras.distillers.distiller import Distiller
from letkd_keras.layers.l2_normalization import l2_normalize
from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import non_negative_number


@keras.saving.register_keras_serializable("letkd_keras")
class SimilarityError(Loss):
    """Squared Frobenius distance of the batch's similarity matrices, over B^2.

    The matrix of features [B, ...] is F F^T, F its rows flattened, with rows l2-normalized (Tung
    and Mori 2019, equations 1 to 4).
    """

    def call(self, y_true, y_pred):
        difference = _similarities(y_true) - _similarities(y_pred)
        # The mean over the images divides by B once more.
        return ops.mean(ops.square(difference), axis=-1)


def _similarities(features):
    flat = ops.reshape(features, (ops.shape(features)[0], -1))
    return l2_normalize(ops.matmul(flat, ops.transpose(flat)), -1)


@keras.saving.register_keras_serializable("letkd_keras")
class SP(Distiller):
    """Similarity-preserving distillation (Tung and Mori, ICCV 2019, equation 5).

        loss = CE + weight * ||G_T - G_S||_F^2 / B^2

    G says which images of a batch have similar features. So channels and grids of the two layers
    may differ.
    The matrices are those of one replica: under a distribution strategy each replica compares the
    images of its own part of the batch, and B is their number. A `sample_weight` weighs the rows of
    the difference: an image of weight 0 is still compared with the others.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits; see `Distiller`.
        student: Functional or sequential `keras.Model` from the same images to logits; trained in
            place.
        student_layers: The student's layer, by name. `None` for the end of its last
            stage, as in RepDistiller.
        teacher_layers: The teacher's, likewise.
        weight: Weight of the loss; 3000 in the paper and in RepDistiller.
        **kwargs: Further options of `Distiller`.

    Raises:
        ValueError: As `Distiller`.
    """

    suggested_layers = "last"

    def __init__(self, teacher, student, *, weight=3000.0, **kwargs):
        super().__init__(
            teacher,
            student,
            loss_weights={"sp": non_negative_number.check(weight, "weight")},
            **kwargs,
        )
        self.similarity_error = SimilarityError(name="similarity_error")

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        ((student, teacher),) = self.feature_pairs(student_outputs, teacher_outputs)
        return {"sp": self.similarity_error(teacher, student, sample_weight)}

    def get_config(self):
        return {**super().get_config(), "weight": self.distillation_weights["sp"]}
