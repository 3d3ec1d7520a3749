import keras
from keras import ops

from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.feature_maps import check_feature_maps, on_one_grid
from letkd_keras.layers.l2_normalization import l2_normalize
from letkd_keras.losses.loss import Loss
from letkd_keras.ranges import Number, non_negative_number


@keras.saving.register_keras_serializable("letkd_keras")
class AttentionError(Loss):
    """Mean of (Q_T - Q_S)^2 over the locations, Q the attention map of features [B, H, W, C].

    Q is the sum over the channels of |f|^power, l2-normalized over the locations (Zagoruyko and
    Komodakis 2017, section 3.1). The channel mean that programs take differs by a factor that the
    normalization removes.

    Args:
        power: Exponent p of the activations, at least 1. Below 1 the gradient of an activation of 0
            would be infinite.
        reduction: Keras' reduction over the images.
        name: Name of the loss.
        dtype: Dtype of the value, computed in at least float32; the default is Keras' `floatx`.
    """

    def __init__(
        self, power=2, reduction="sum_over_batch_size", name="attention_error", dtype=None
    ):
        super().__init__(reduction=reduction, name=name, dtype=dtype)
        self.power = Number(1, includes_smallest=True).check(power, "power")

    def call(self, y_true, y_pred):
        difference = self.attention(y_true) - self.attention(y_pred)
        return ops.mean(ops.square(difference), axis=-1)

    def attention(self, features):
        """Attention maps [B, H * W] of length 1."""
        maps = ops.mean(ops.power(ops.abs(features), self.power), axis=-1)
        return l2_normalize(ops.reshape(maps, (-1, maps.shape[1] * maps.shape[2])), -1)


@keras.saving.register_keras_serializable("letkd_keras")
class AT(Distiller):
    """Attention transfer (Zagoruyko and Komodakis 2017, equation 2, activation based).

        loss = CE + weight * sum over the layers of mean (Q_T - Q_S)^2

    with the mean over locations in place of the paper's norm, as in RepDistiller, whose weight
    belongs to it. Where grids differ, the finer features are averaged.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits; see `Distiller`.
        student: Functional or sequential `keras.Model` from the same images to logits; trained in
            place.
        student_layers: Layers of the student. `None` for the ends of its stages, as in
            RepDistiller: as many as the teacher has, counted from the last.
        teacher_layers: As many of the teacher, likewise.
        weight: Weight of the loss; 1000 in RepDistiller.
        power: Exponent p, at least 1; 2 there.
        **kwargs: Further options of `Distiller`.

    Raises:
        ValueError: If `power` is less than 1, a layer has no feature map, or as `Distiller`.
    """

    suggested_layers = "all"

    def __init__(
        self,
        teacher,
        student,
        *,
        weight=1000.0,
        power=2,
        **kwargs,
    ):
        super().__init__(
            teacher,
            student,
            loss_weights={"at": non_negative_number.check(weight, "weight")},
            **kwargs,
        )
        check_feature_maps(self)
        self.attention_error = AttentionError(power)

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        errors = []
        for pair in self.feature_pairs(student_outputs, teacher_outputs):
            student, teacher = on_one_grid(*pair)
            errors.append(self.attention_error(teacher, student, sample_weight))
        return {"at": sum(errors)}

    def get_config(self):
        return {
            **super().get_config(),
            "weight": self.distillation_weights["at"],
            "power": self.attention_error.power,
        }
