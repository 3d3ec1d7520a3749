import math

import keras
from keras import ops

from letkd_keras.distillers.feature_maps import convolution, on_one_grid
from letkd_keras.distillers.teacher_distiller import TeacherDistiller

_START_VARIANCE = 5.0
_EPSILON = 1e-5


@keras.saving.register_keras_serializable("letkd_keras")
class GaussianNegativeLogLikelihood(keras.losses.Loss):
    """-log q(t | s) of a Gaussian, without its constant, averaged over locations and channels.

    Call arguments:
        y_true: Teacher's features t [B, H, W, C].
        y_pred: `(mean [B, H, W, C], variance [C])`.
    """

    def call(self, y_true, y_pred):
        mean, variance = y_pred
        likelihood = ops.square(mean - y_true) / variance + ops.log(variance)
        return 0.5 * ops.mean(likelihood, axis=(1, 2, 3))


@keras.saving.register_keras_serializable("letkd_keras")
class VariationalRegressor(keras.layers.Layer):
    """Mean and variance of the teacher's features given the student's (Ahn et al. 2019, eq. 5-6).

    The mean is three 1x1 convolutions with ReLU between, as wide as the teacher; the variance is
    softplus(a) + 1e-5 for each channel, learnable, 5 at the start.

    Args:
        channels: Channels of the teacher.
        **kwargs: Keras' layer arguments.

    Call arguments:
        features: Student's features [B, H, W, C'].

    Returns:
        `(mean [B, H, W, channels], variance [channels])`.
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.mean = keras.Sequential(
            [
                convolution(channels, 1, activation="relu"),
                convolution(channels, 1, activation="relu"),
                convolution(channels, 1),
            ]
        )

    def build(self, input_shape):
        self.mean.build(input_shape)
        start = math.log(math.expm1(_START_VARIANCE - _EPSILON))
        self.raw_variance = self.add_weight(
            name="raw_variance",
            shape=(self.channels,),
            initializer=keras.initializers.Constant(start),
        )
        self.built = True

    def call(self, features):
        return self.mean(features), ops.softplus(self.raw_variance) + _EPSILON

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


@keras.saving.register_keras_serializable("letkd_keras")
class VID(TeacherDistiller):
    """Variational information distillation (Ahn et al., CVPR 2019, equations 3, 5 and 6).

        loss = CE + weight * sum over the taps of mean ((t - mu(s))^2 / var + log var) / 2

    which bounds the mutual information of teacher and student features from below. Where grids
    differ, the finer features are averaged, as in RepDistiller.

    Args:
        student: Functional `keras.Model` from images to logits; trained in place.
        teacher: Functional `keras.Model` from the same images to logits of the same classes.
        student_layers: Layers of the student, the ends of its stages in RepDistiller.
        teacher_layers: As many of the teacher.
        weight: Weight of the loss; 1 in RepDistiller.
        **kwargs: Further options of `TeacherDistiller`.

    Raises:
        ValueError: As `TeacherDistiller`.
    """

    def __init__(self, student, teacher=None, *, weight=1.0, **kwargs):
        super().__init__(student, teacher, {"vid": weight}, **kwargs)
        self.regressors = []
        for ours, theirs in zip(self.student_shapes, self.teacher_shapes, strict=True):
            regressor = VariationalRegressor(theirs[-1])
            regressor.build((None, *ours))
            self.regressors.append(regressor)
        self.likelihood = GaussianNegativeLogLikelihood(name="likelihood")

    def distillation_losses(self, learned, taught, sample_weight=None):
        losses = []
        pairs = self.tap_pairs(learned, taught)
        for regressor, pair in zip(self.regressors, pairs, strict=True):
            ours, theirs = on_one_grid(*pair)
            losses.append(self.likelihood(theirs, regressor(ours), sample_weight))
        return {"vid": sum(losses)}

    def get_config(self):
        return {**super().get_config(), "weight": self.distillation_weights["vid"]}
