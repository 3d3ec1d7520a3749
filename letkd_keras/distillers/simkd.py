import keras

from letkd_keras.data_format import check_data_format, spatial_shape
from letkd_keras.distillers.compatibility import matching_models
from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.feature_layers import compared_layers
from letkd_keras.distillers.feature_maps import (
    FeatureMeanSquaredError,
    check_feature_map,
    common_grid,
    on_one_grid,
)
from letkd_keras.functional.graph import (
    IDLE_AT_INFERENCE,
    find_layer,
    flatten,
    output_of,
    readers,
)
from letkd_keras.functional.graph_copy import copy_of, copy_with, with_weights
from letkd_keras.functional.layer_suggestions import suggest_layers
from letkd_keras.functional.softmax_removal import last_operation
from letkd_keras.layers import AdaptiveAveragePooling
from letkd_keras.models import blocks
from letkd_keras.ranges import non_negative_number, positive_integer
from letkd_keras.shapes import grid_ratio

_PROJECTED = "simkd_projected"


@keras.saving.register_keras_serializable("letkd_keras")
class SimKD(Distiller):
    """Reuse of the teacher's classifier (Chen et al., CVPR 2022, equation 3).

        loss = mean (f_T - P(f_S))^2        no cross-entropy

    The projector P is 1x1 - 3x3 - 1x1, each without bias and with batch normalization and ReLU,
    from the student's feature map to the teacher's channels, through `factor` times fewer. It
    starts as PyTorch's convolutions do. The trained `student` has its encoder, P and the teacher's
    classifier: unlike most other methods this one leaves layers in the student. Where the grids
    differ the finer map is averaged.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits; see `Distiller`. Its
            last feature map goes through global average pooling and a `Dense` layer. Layers
            between these that do nothing at inference, such as `Dropout`, are not taken over.
        student: Functional or sequential `keras.Model` from the same images to logits. It is left
            as it was: `student` of the distiller is a copy with another classifier. A student that
            has P keeps it and is not copied: it is trained in place.
        student_layers: The student's feature map, by name. `None` for the end of its last
            stage, the last one that RepDistiller's networks list.
        teacher_layers: The teacher's, likewise, which its classifier must read. `None` for its
            penultimate layer. In a wide ResNet this is not the layer that RepDistiller lists, which
            is a sum before the last batch normalization and ReLU. The teacher's classifier could
            not classify features of that layer.
        factor: How many times thinner the projector is inside, at most the teacher's channels; 2 in
            the paper.
        weight: Weight of the loss.
        task_weight: Weight of the cross-entropy; 0 in the paper.
        **kwargs: Further options of `Distiller`.

    Raises:
        ValueError: If the teacher's classifier is another, the student's layer has no feature map,
            the image size is open, `factor` is out of its range, or as `Distiller`.
    """

    def __init__(
        self,
        teacher,
        student,
        *,
        student_layers=None,
        teacher_layers=None,
        factor=2,
        weight=1.0,
        task_weight=0.0,
        **kwargs,
    ):
        teacher, student = matching_models(teacher, student)
        student = flatten(student)
        factor = positive_integer.check(factor, "factor")
        projects = _PROJECTED in {operation.name for operation in student.operations}
        if teacher is None and (teacher_layers is None or not projects):
            raise ValueError("`teacher` is needed for its classifier. Received: teacher=None")
        if teacher_layers is None:
            teacher_layers = (suggest_layers(teacher, "teacher")["penultimate"],)
        if not projects:
            teacher_layers, student_layers = compared_layers(
                teacher, student, teacher_layers, student_layers, "last"
            )
            student = _reusing_classifier(teacher, student, teacher_layers, student_layers, factor)
        super().__init__(
            teacher,
            student,
            student_layers=(_PROJECTED,),
            teacher_layers=teacher_layers,
            loss_weights={"simkd": non_negative_number.check(weight, "weight")},
            task_weight=task_weight,
            **kwargs,
        )
        self.factor = factor
        self.projection_error = FeatureMeanSquaredError(name="projection_error")

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        (pair,) = self.feature_pairs(student_outputs, teacher_outputs)
        student, teacher = on_one_grid(*pair)
        return {"simkd": self.projection_error(teacher, student, sample_weight)}

    def get_config(self):
        return {
            **super().get_config(),
            "factor": self.factor,
            "weight": self.distillation_weights["simkd"],
        }


def _reusing_classifier(teacher, student, teacher_layers, student_layers, factor):
    """A copy of the student up to its layer, then the projector and the teacher's classifier."""
    (teacher_layer,), (student_layer,) = teacher_layers, student_layers
    flat_teacher = flatten(teacher)
    for model in (flat_teacher, student):
        check_data_format(model)
    features = output_of(flat_teacher, find_layer(flat_teacher, teacher_layer, "teacher_layers"))
    pooling, classifier = _classifier(flat_teacher, teacher_layer)
    copy = copy_with(student)
    x = output_of(copy, find_layer(copy, student_layer, "student_layers"))
    check_feature_map(x.shape[1:], student_layer, "student_layers")
    channels = blocks.channels(features)
    if factor > channels:
        raise ValueError(
            f"`factor` must be at most the teacher's {channels} channels. Received: factor={factor}"
        )
    own = spatial_shape(x.shape)
    grid = common_grid(own, spatial_shape(features.shape))
    if grid != own:
        window = grid_ratio(own, grid)
        x = (
            keras.layers.AveragePooling2D(window, name="simkd_pool")
            if window
            else AdaptiveAveragePooling(grid, name="simkd_pool")
        )(x)
    x = _project(x, channels, factor)
    # Names of their own: the student may have layers of the teacher's names.
    x = copy_of(pooling, name="simkd_pooling")(x)
    reused = copy_of(classifier, keras.layers.Dense, name="simkd_classifier", trainable=False)
    logits = with_weights(reused, classifier.get_weights(), x)
    if logits.dtype != teacher.outputs[0].dtype:  # a float32 softmax ended the teacher
        logits = keras.ops.cast(logits, teacher.outputs[0].dtype)
    return keras.Model(copy.inputs[0], logits, name=student.name)


def _project(x, channels, factor):
    """The output of the projector P, named `_PROJECTED`."""
    thin = channels // factor
    for number, (width, kernel_size) in enumerate(((thin, 1), (thin, 3), (channels, 1)), start=1):
        x = blocks.conv(x, width, kernel_size, name=f"simkd_conv{number}")
        x = blocks.batch_norm(x, name=f"simkd_bn{number}")
        x = blocks.relu(x, name=f"simkd_relu{number}" if number < 3 else _PROJECTED)
    return x


def _classifier(teacher, name):
    """The global average pooling and the `Dense` layer between the teacher's layer and its end."""
    layer, following = find_layer(teacher, name), []
    for kind in (keras.layers.GlobalAveragePooling2D, keras.layers.Dense):
        (layer, *others) = readers(teacher, layer)
        while not others and isinstance(layer, IDLE_AT_INFERENCE):
            (layer, *others) = readers(teacher, layer)
        if others or not isinstance(layer, kind):
            raise ValueError(
                "`teacher_layers` must name a layer with only global average pooling and a Dense "
                f"layer after it. Received: {name!r}, read by {layer.name!r} of "
                f"{type(layer).__name__}"
            )
        following.append(layer)
    if last_operation(teacher) is not layer:
        raise ValueError(
            "`teacher` must end in the Dense layer that follows its global average pooling. "
            f"Received: teacher={teacher.name!r}, with layers after {layer.name!r}"
        )
    return following
