import math

import keras
from keras import ops

from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.feature_maps import check_feature_maps, on_one_grid
from letkd_keras.losses.loss import Loss
from letkd_keras.models.initialization import torch_uniform
from letkd_keras.ranges import non_negative_number

_START_VARIANCE = 5.0
_EPSILON = 1e-5


@keras.saving.register_keras_serializable("letkd_keras")
class GaussianNegativeLogLikelihood(Loss):
    """-log q(t | s) of a Gaussian, without its constant, averaged over locations and channels.

    Call arguments:
        y_true: Teacher's features t [B, H, W, C].
        y_pred: `(mean [B, H, W, C], variance [C])`.
    """

    def call(self, y_true, y_pred):
        mean, variance = y_pred
        likelihood = ops.square(mean - y_true) / variance + ops.log(variance)
        return 0.5 * ops.mean(likelihood, axis=(1, 2, 3))


def _convolution(channels, **kwargs):
    return keras.layers.Conv2D(
        channels,
        1,
        use_bias=False,
        data_format="channels_last",
        kernel_initializer=torch_uniform(),
        **kwargs,
    )


class VariationalRegressor(keras.layers.Layer):
    """Mean and variance of the teacher's features given the student's (Ahn et al. 2019, eq. 5-6).

    The mean is three 1x1 convolutions with ReLU between, as wide as the teacher; the variance is
    softplus(a) + 1e-5 for each channel, learnable, 5 at the start. The convolutions have no bias
    and start as PyTorch's do, as in RepDistiller.

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
                _convolution(channels, activation="relu"),
                _convolution(channels, activation="relu"),
                _convolution(channels),
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


@keras.saving.register_keras_serializable("letkd_keras")
class VID(Distiller):
    """Variational information distillation (Ahn et al., CVPR 2019, equations 3, 5 and 6).

        loss = CE + weight * sum over the layers of mean ((t - mu(s))^2 / var + log var) / 2

    which bounds the mutual information of teacher and student features from below. Where grids
    differ, the finer features are averaged, as in RepDistiller.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits; see `Distiller`.
        student: Functional or sequential `keras.Model` from the same images to logits; trained in
            place.
        student_layers: Layers of the student. `None` for the ends of its stages, as in
            RepDistiller: as many as the teacher has, counted from the last.
        teacher_layers: As many of the teacher, likewise.
        weight: Weight of the loss; 1 in RepDistiller.
        **kwargs: Further options of `Distiller`.

    Raises:
        ValueError: If a layer has no feature map, or as `Distiller`.
    """

    suggested_layers = "all"

    def __init__(self, teacher, student, *, weight=1.0, **kwargs):
        super().__init__(
            teacher,
            student,
            loss_weights={"vid": non_negative_number.check(weight, "weight")},
            **kwargs,
        )
        check_feature_maps(self)
        self.regressors = []
        shapes = zip(self.student_shapes, self.teacher_shapes, strict=True)
        for student_shape, teacher_shape in shapes:
            regressor = VariationalRegressor(teacher_shape[-1])
            regressor.build((None, *student_shape))
            self.regressors.append(regressor)
        self.likelihood = GaussianNegativeLogLikelihood(name="likelihood")

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        losses = []
        pairs = self.feature_pairs(student_outputs, teacher_outputs)
        for regressor, pair in zip(self.regressors, pairs, strict=True):
            student, teacher = on_one_grid(*pair)
            losses.append(self.likelihood(teacher, regressor(student), sample_weight))
        return {"vid": sum(losses)}

    def get_config(self):
        return {**super().get_config(), "weight": self.distillation_weights["vid"]}
