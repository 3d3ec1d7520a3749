import keras

from letkd_keras.distillers.feature_maps import FeatureMeanSquaredError, finer_by, on_one_grid
from letkd_keras.distillers.teacher_distiller import TeacherDistiller
from letkd_keras.functional.graph import (
    check_functional,
    copy_with,
    find_layer,
    flatten,
    output_of,
    readers,
    spatial_shape,
)
from letkd_keras.models import blocks

_PROJECTED = "simkd_projected"


@keras.saving.register_keras_serializable("letkd_keras")
class SimKD(TeacherDistiller):
    """Reuse of the teacher's classifier (Chen et al., CVPR 2022, equation 3).

        loss = mean (f_T - P(f_S))^2        no cross-entropy

    The projector P is 1x1 - 3x3 - 1x1, each with BN and ReLU, from the student's last feature map
    to the teacher's channels, through `factor` times fewer. What ships is the student's encoder, P
    and the teacher's classifier: unlike the other methods this one leaves layers in the student.
    Where the grids differ the finer map is averaged.

    Args:
        student: Functional `keras.Model` from images to logits. It is left as it was:
            `model.student` is a copy with another classifier. A student that has P keeps it.
        teacher: Functional `keras.Model` from the same images to logits of the same classes, whose
            last feature map goes through global average pooling and a `Dense` layer.
        student_layers: The student's last feature map, in a tuple of one.
        teacher_layers: The teacher's, likewise.
        factor: How many times thinner the projector is inside; 2 in the paper.
        weight: Weight of the loss.
        task_weight: Weight of the cross-entropy; 0 in the paper.
        **kwargs: Further options of `TeacherDistiller`.

    Raises:
        ValueError: If the teacher's classifier is another, neither grid divides the other, or as
            `TeacherDistiller`.
    """

    def __init__(
        self,
        student,
        teacher=None,
        *,
        student_layers,
        teacher_layers,
        factor=2,
        weight=1.0,
        task_weight=0.0,
        **kwargs,
    ):
        check_functional(student, "student")
        if _PROJECTED not in {operation.name for operation in student.operations}:
            check_functional(teacher, "teacher")
            student = _reusing_classifier(student, teacher, student_layers, teacher_layers, factor)
        super().__init__(
            student,
            teacher,
            {"simkd": weight},
            student_layers=(_PROJECTED,),
            teacher_layers=teacher_layers,
            task_weight=task_weight,
            **kwargs,
        )
        self.factor = factor
        self.projection_error = FeatureMeanSquaredError(name="projection_error")

    def distillation_losses(self, learned, taught, sample_weight=None):
        ((ours, theirs),) = self.tap_pairs(learned, taught)
        ours, theirs = on_one_grid(ours, theirs)
        return {"simkd": self.projection_error(theirs, ours, sample_weight)}

    def get_config(self):
        return {
            **super().get_config(),
            "factor": self.factor,
            "weight": self.distillation_weights["simkd"],
        }


def _reusing_classifier(student, teacher, student_layers, teacher_layers, factor):
    """A copy of the student up to its tap, then the projector and the teacher's classifier."""
    (student_tap,), (teacher_tap,) = student_layers, teacher_layers
    flat_teacher = flatten(teacher)
    pooling, classifier = _classifier(flat_teacher, teacher_tap)
    theirs = output_of(flat_teacher, find_layer(flat_teacher, teacher_tap))
    copy = copy_with(flatten(student), lambda layer, *args, **kwargs: layer(*args, **kwargs))
    x = output_of(copy, find_layer(copy, student_tap))
    channels = blocks.channels(theirs)
    window, _ = finer_by(spatial_shape(x.shape), spatial_shape(theirs.shape))
    if window > 1:
        x = keras.layers.AveragePooling2D(window, name="simkd_pool")(x)
    for number, (width, kernel_size) in enumerate(
        ((channels // factor, 1), (channels // factor, 3), (channels, 1)), start=1
    ):
        x = blocks.conv(x, width, kernel_size, name=f"simkd_conv{number}")
        x = blocks.batch_norm(x, name=f"simkd_bn{number}")
        x = blocks.relu(x, name=f"simkd_relu{number}" if number < 3 else _PROJECTED)
    x = pooling.__class__.from_config(pooling.get_config())(x)
    reused = keras.layers.Dense.from_config({**classifier.get_config(), "trainable": False})
    logits = reused(x)
    reused.set_weights(classifier.get_weights())
    return keras.Model(copy.inputs[0], logits, name=student.name)


def _classifier(teacher, tap):
    """The global average pooling and the `Dense` layer that follow the teacher's tap."""
    layer, following = find_layer(teacher, tap), []
    for kind in (keras.layers.GlobalAveragePooling2D, keras.layers.Dense):
        (layer, *others) = readers(teacher, layer)
        if others or not isinstance(layer, kind):
            raise ValueError(
                f"`teacher` must have global average pooling and a Dense layer after {tap!r}. "
                f"Received: {layer.name!r} of {type(layer).__name__}"
            )
        following.append(layer)
    return following
