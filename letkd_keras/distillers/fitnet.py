import keras

from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.feature_maps import (
    FeatureMeanSquaredError,
    check_feature_maps,
    common_grid,
    on_one_grid,
)
from letkd_keras.layers import TorchBatchNormalization
from letkd_keras.models.initialization import torch_bias_uniform, torch_uniform
from letkd_keras.ranges import non_negative_number
from letkd_keras.shapes import grid_ratio


@keras.saving.register_keras_serializable("letkd_keras")
class FitNet(Distiller):
    """Hints: the student's features regress the teacher's (Romero et al. 2015, equation 3).

        loss = CE + weight * mean (f_T - r(f_S))^2

    As in RepDistiller, whose FitNet the letKD paper cites, one stage of training has both terms,
    and the regressor r is a convolution with bias, batch normalization and ReLU.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits; see `Distiller`.
        student: Functional or sequential `keras.Model` from the same images to logits; trained in
            place.
        student_layers: The student's guided layer, by name. `None` for the end of its
            second stage, as in RepDistiller.
        teacher_layers: The teacher's hint layer, likewise.
        weight: Weight of the hint; 100 in RepDistiller.
        **kwargs: Further options of `Distiller`.

    Raises:
        ValueError: If a layer has no feature map, the image size is open, or as `Distiller`.
    """

    suggested_layers = "second"

    def __init__(self, teacher, student, *, weight=100.0, **kwargs):
        super().__init__(
            teacher,
            student,
            loss_weights={"hint": non_negative_number.check(weight, "weight")},
            **kwargs,
        )
        check_feature_maps(self)
        (student_shape,), (teacher_shape,) = self.student_shapes, self.teacher_shapes
        self.regressor = regressor_of(student_shape, teacher_shape)
        self.hint_error = FeatureMeanSquaredError(name="hint_error")

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        ((student, teacher),) = self.feature_pairs(student_outputs, teacher_outputs)
        regressed, teacher = on_one_grid(self.regressor(student, training=True), teacher)
        return {"hint": self.hint_error(teacher, regressed, sample_weight)}

    def get_config(self):
        return {**super().get_config(), "weight": self.distillation_weights["hint"]}


def regressor_of(student, teacher):
    """RepDistiller's regressor between feature maps, with PyTorch's initialization and padding.

    A 1x1 convolution on equal grids; 3x3 with stride 2 where the student's grid is twice as fine; a
    transposed 4x4 with stride 2 where it is half. Other ratios take their stride in the same way.
    Where neither grid divides the other, it is a 1x1 convolution, and `on_one_grid` follows it.

    Args:
        student: Shape (height, width, channels) of the student's feature map.
        teacher: Shape of the teacher's.

    Returns:
        A built `keras.Sequential` of the convolution, batch normalization and ReLU.

    Raises:
        ValueError: If a grid is not known.
    """
    common_grid(student, teacher)
    down = grid_ratio(student[:2], teacher[:2]) or 1
    up = grid_ratio(teacher[:2], student[:2]) or 1
    channels = teacher[-1]
    if up > 1:
        # PyTorch counts the fan in of a transposed convolution on its output channels.
        kernel_size, fan_in = 2 * up, (2 * up) ** 2 * channels
        layer, strides, padding = keras.layers.Conv2DTranspose, up, "same"
    else:
        kernel_size = 1 if down == 1 else 3
        fan_in = kernel_size**2 * student[-1]
        layer, strides, padding = keras.layers.Conv2D, down, "valid"
    convolution = layer(
        channels,
        kernel_size,
        strides,
        padding=padding,
        data_format="channels_last",
        kernel_initializer=torch_uniform(),
        bias_initializer=torch_bias_uniform(fan_in),
        name="convolution",
    )
    # `padding="same"` would pad a strided convolution at the bottom and right only.
    pad = [keras.layers.ZeroPadding2D(1, data_format="channels_last")] if down > 1 else []
    regressor = keras.Sequential(
        [*pad, convolution, TorchBatchNormalization(axis=-1), keras.layers.ReLU()],
        name="regressor",
    )
    regressor.build((None, *student))
    return regressor
