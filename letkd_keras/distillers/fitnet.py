import keras

from letkd_keras.distillers.feature_maps import FeatureMeanSquaredError, convolution, finer_by
from letkd_keras.distillers.teacher_distiller import TeacherDistiller
from letkd_keras.layers import TorchBatchNormalization


@keras.saving.register_keras_serializable("letkd_keras")
class FitNet(TeacherDistiller):
    """Hints: the student's features regress the teacher's (Romero et al. 2015, equation 3).

        loss = CE + weight * mean (f_T - r(f_S))^2

    As in RepDistiller, whose FitNet the letKD paper cites, one stage of training has both terms,
    and the regressor r is a convolution with BN and ReLU, of stride 2 where the student's grid is
    twice as fine and transposed where it is half.

    Args:
        student: Functional `keras.Model` from images to logits; trained in place.
        teacher: Functional `keras.Model` from the same images to logits of the same classes.
        student_layers: The student's guided layer, in a tuple of one.
        teacher_layers: The teacher's hint layer, likewise.
        weight: Weight of the hint; 100 in RepDistiller.
        **kwargs: Further options of `TeacherDistiller`.

    Raises:
        ValueError: If neither grid divides the other, or as `TeacherDistiller`.
    """

    def __init__(self, student, teacher=None, *, weight=100.0, **kwargs):
        super().__init__(student, teacher, {"hint": weight}, **kwargs)
        (ours,), (theirs,) = self.student_shapes, self.teacher_shapes
        self.regressor = regressor_of(ours, theirs)
        self.hint_error = FeatureMeanSquaredError(name="hint_error")

    def distillation_losses(self, learned, taught, sample_weight=None):
        ((ours, theirs),) = self.tap_pairs(learned, taught)
        regressed = self.regressor(ours, training=True)
        return {"hint": self.hint_error(theirs, regressed, sample_weight)}

    def get_config(self):
        return {**super().get_config(), "weight": self.distillation_weights["hint"]}


def regressor_of(student, teacher):
    """A regressor between maps of shapes (height, width, channels), built."""
    down, up = finer_by(student, teacher)
    channels = teacher[-1]
    if up > 1:
        resize = keras.layers.Conv2DTranspose(
            channels,
            2 * up,
            up,
            padding="same",
            use_bias=False,
            data_format="channels_last",
            kernel_initializer="he_normal",
        )
    else:
        resize = convolution(channels, 1 if down == 1 else 3, down)
    regressor = keras.Sequential(
        [resize, TorchBatchNormalization(axis=-1), keras.layers.ReLU()], name="regressor"
    )
    regressor.build((None, *student))
    return regressor
