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


def pool_sizes(student, teacher):
    """Windows `(student's, teacher's)` of the average pooling that gives both the coarser grid.

    Args:
        student: Shape (height, width, ...) of the student's map.
        teacher: Shape of the teacher's.

    Returns:
        Two integers, at least one of them 1.

    Raises:
        ValueError: If a grid is not known or neither divides the other.
    """
    if None in (*student[:2], *teacher[:2]):
        raise ValueError(
            "`teacher` and `student` must have a fixed image size, so that their grids are known. "
            f"Received: the student's {student[0]}x{student[1]} and the teacher's "
            f"{teacher[0]}x{teacher[1]}"
        )
    ratios = grid_ratio(student[:2], teacher[:2]), grid_ratio(teacher[:2], student[:2])
    if ratios == (None, None):
        raise ValueError(
            "One of the grids of `student_layers` and `teacher_layers` must divide the other. "
            f"Received: the student's {student[0]}x{student[1]} and the teacher's "
            f"{teacher[0]}x{teacher[1]}"
        )
    return ratios[0] or 1, ratios[1] or 1


def on_one_grid(student, teacher):
    """The two maps [B, H, W, C], the finer one averaged to the grid of the coarser."""
    windows = pool_sizes(student.shape[1:], teacher.shape[1:])
    return tuple(
        features
        if window == 1
        else ops.average_pool(features, window, strides=window, data_format="channels_last")
        for features, window in zip((student, teacher), windows, strict=True)
    )


@keras.saving.register_keras_serializable("letkd_keras")
class FeatureMeanSquaredError(keras.losses.Loss):
    """Mean of (teacher - student)^2 over locations and channels, [B, H, W, C] each.

    Unlike Keras' own it has one value per image, so that a `sample_weight` [B] weighs images.
    """

    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred), axis=(1, 2, 3))
