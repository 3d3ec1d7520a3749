"""Feature maps of a student and a teacher whose grids may differ."""

import keras
from keras import ops

from letkd_keras.functional.graph import grid_ratio


def channels_last(features):
    """A feature map of Keras' data format as [B, H, W, C]; other tensors as they are."""
    if len(features.shape) == 4 and keras.config.image_data_format() == "channels_first":
        return ops.transpose(features, (0, 2, 3, 1))
    return features


def channels_last_shape(shape):
    """The same of a shape without the batch dimension."""
    if len(shape) == 3 and keras.config.image_data_format() == "channels_first":
        return (*shape[1:], shape[0])
    return tuple(shape)


def finer_by(student, teacher):
    """Windows `(of the student's, of the teacher's)` that bring two maps to the coarser grid.

    Args:
        student: Shape (height, width, channels) of the student's map.
        teacher: Shape of the teacher's.

    Returns:
        Two integers, at least one of them 1.

    Raises:
        ValueError: If neither grid divides the other.
    """
    ours, theirs = grid_ratio(student[:2], teacher[:2]), grid_ratio(teacher[:2], student[:2])
    if ours is None and theirs is None:
        raise ValueError(
            "One grid must divide the other. Received: the student's "
            f"{student[0]}x{student[1]} and the teacher's {teacher[0]}x{teacher[1]}"
        )
    return ours or 1, theirs or 1


def on_one_grid(student, teacher):
    """The two maps [B, H, W, C] with the finer one averaged to the grid of the coarser."""
    windows = finer_by(student.shape[1:], teacher.shape[1:])
    return tuple(
        features
        if window == 1
        else ops.average_pool(features, window, strides=window, data_format="channels_last")
        for features, window in zip((student, teacher), windows, strict=True)
    )


@keras.saving.register_keras_serializable("letkd_keras")
class FeatureMeanSquaredError(keras.losses.Loss):
    """Mean of (teacher - student)^2 over locations and channels, [B, H, W, C] each.

    Unlike Keras' own it has one value an image, so that a `sample_weight` [B] weighs images.
    """

    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred), axis=(1, 2, 3))


def convolution(filters, kernel_size, strides=1, **kwargs):
    """A convolution of channels-last maps without bias, as wide as PyTorch's with padding."""
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides,
        padding="same",
        use_bias=False,
        data_format="channels_last",
        kernel_initializer="he_normal",
        **kwargs,
    )
