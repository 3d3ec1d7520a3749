"""Feature maps of a student and a teacher whose grids may differ."""

import keras
from keras import ops

from letkd_keras.data_format import to_channels_last
from letkd_keras.layers import adaptive_average_pool
from letkd_keras.losses.loss import Loss


def channels_last(features):
    """A feature map of Keras' data format as [B, H, W, C]; other tensors as they are."""
    if len(features.shape) != 4:
        return features
    return to_channels_last(features, keras.config.image_data_format())


def channels_last_shape(shape):
    """The same of a shape without the batch dimension."""
    if len(shape) == 3 and keras.config.image_data_format() == "channels_first":
        return (*shape[1:], shape[0])
    return tuple(shape)


def check_feature_maps(distiller):
    """Check that the layers that a distiller compares have feature maps.

    Raises:
        ValueError: If one has not, naming it.
    """
    for role in ("student", "teacher"):
        layers = getattr(distiller, f"{role}_layers")
        shapes = getattr(distiller, f"{role}_shapes")
        for layer, shape in zip(layers, shapes, strict=False):  # no shapes without a teacher
            check_feature_map(shape, layer, f"{role}_layers")


def check_feature_map(shape, layer, argument):
    """Check that a layer has a feature map.

    Args:
        shape: Shape of the layer's output, without the batch dimension.
        layer: Name of the layer.
        argument: Name of the argument in the error.

    Raises:
        ValueError: If it has not, naming it.
    """
    if len(shape) != 3:
        raise ValueError(
            f"`{argument}` must name a layer with a feature map [B, H, W, C]. "
            f"Received: {layer!r} of shape {(None, *shape)}"
        )


def common_grid(student, teacher):
    """The smaller height and the smaller width of two feature maps.

    Args:
        student: Shape (height, width, ...) of the student's map.
        teacher: Shape of the teacher's.

    Raises:
        ValueError: If a grid is not known.
    """
    if None in (*student[:2], *teacher[:2]):
        raise ValueError(
            "`teacher` and `student` must have a fixed image size, so that their grids are known. "
            f"Received: the student's {student[0]}x{student[1]} and the teacher's "
            f"{teacher[0]}x{teacher[1]}"
        )
    return tuple(min(sizes) for sizes in zip(student[:2], teacher[:2], strict=True))


def on_one_grid(student, teacher):
    """The two maps [B, H, W, C], the finer one averaged to the grid of the coarser.

    See `letkd_keras.layers.adaptive_average_pool` for grids that do not divide.
    """
    grid = common_grid(student.shape[1:], teacher.shape[1:])
    return adaptive_average_pool(student, grid), adaptive_average_pool(teacher, grid)


@keras.saving.register_keras_serializable("letkd_keras")
class FeatureMeanSquaredError(Loss):
    """Mean of (teacher - student)^2 over locations and channels, [B, H, W, C] each.

    Unlike Keras' own it has one value per image, so that a `sample_weight` [B] weighs images.
    """

    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred), axis=(1, 2, 3))
