"""Whether a teacher, a student and prototypes fit each other; all distillers ask here."""

import logging

from letkd_keras.data_format import check_data_format, spatial_shape
from letkd_keras.functional.graph import find_layer, flatten, output_of, output_shape_of
from letkd_keras.functional.onnx_file import check_no_onnx
from letkd_keras.functional.softmax_removal import remove_softmax
from letkd_keras.shapes import shapes_agree

log = logging.getLogger(__name__)

# Layers of Keras that move the pixels of an image.
_MOVING = {
    *("RandomCrop", "RandomElasticTransform", "RandomFlip", "RandomPerspective"),
    *("RandomRotation", "RandomShear", "RandomTranslation", "RandomZoom"),
}


def matching_models(teacher, student):
    """The two models with logits as outputs, if they are for the same images and classes.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits or softmax
            probabilities, or `None`.
        student: Likewise.

    Returns:
        `(teacher, student)`: functional models of the same layers. Where one ends in a softmax, it
        is a model without it (`letkd_keras.remove_softmax`).

    Raises:
        ValueError: If a model is not functional, does not end in logits or a softmax, the student
            cannot be trained, or the models' input shapes or numbers of classes differ.
    """
    student = remove_softmax(student, "student")
    check_no_onnx(student, "student")
    if teacher is None:
        return None, student
    teacher = remove_softmax(teacher, "teacher")
    shapes = [tuple(model.inputs[0].shape[1:]) for model in (teacher, student)]
    if not shapes_agree(*shapes):
        raise ValueError(
            "`teacher` and `student` must take images of the same shape. "
            f"Received: teacher's {shapes[0]} and student's {shapes[1]}"
        )
    classes = [model.outputs[0].shape[-1] for model in (teacher, student)]
    if classes[0] != classes[1]:
        raise ValueError(
            "`teacher` and `student` must have the same number of classes. "
            f"Received: teacher's {classes[0]} and student's {classes[1]}. A model without a head "
            "puts out features: add a `Dense(classes)` and train it"
        )
    return teacher, student


def check_teacher_stays(teacher, student):
    """Refuse a student whose training would change the teacher.

    Args:
        teacher: `keras.Model`.
        student: `keras.Model` that will be trained.

    Raises:
        ValueError: If weights that will be trained are weights of the teacher too.
    """
    own = {id(variable) for variable in teacher.variables}
    shared = [variable.path for variable in student.trainable_variables if id(variable) in own]
    if shared:
        raise ValueError(
            "`student` must not train weights of `teacher`: freeze the layers that both have "
            "(`layer.trainable = False`), or copy one model (`keras.models.clone_model` and "
            f"`set_weights`). Received: {len(shared)} weights of both, such as {shared[0]}"
        )


def warn_about_augmentation(student):
    """Name the student's layers that move images in training, which the teacher does not see.

    Args:
        student: Functional `keras.Model`.
    """
    moving = [layer.name for layer in flatten(student).layers if type(layer).__name__ in _MOVING]
    if moving:
        log.warning(
            "The student moves images in training (%s). The teacher sees them unmoved, so that the "
            "features of the two do not match. Augment the images in the data set.",
            ", ".join(moving),
        )


def check_prototypes(teacher, student, prototypes, levels):
    """Refuse prototypes of another teacher, or without the levels wanted.

    Args:
        teacher: Functional teacher that gives logits.
        student: Functional student that gives logits, to tell whether the two are swapped.
        prototypes: `Prototypes`.
        levels: Levels that supervise the student.

    Returns:
        Dictionary of the names of the teacher's layers, by level.

    Raises:
        ValueError: If the prototypes belong to the student (the models are swapped) or to neither
            model, or have nothing for one of the levels.
    """
    missing = [level for level in levels if getattr(prototypes, level) is None]
    if missing:
        raise ValueError(
            f"`prototypes` have nothing for the {missing[0]} level: fit them with "
            f"`levels=('penultimate', 'intermediate')`, or leave it out of `levels`. "
            f"Received: levels={tuple(levels)}"
        )
    try:
        return prototypes.check_teacher(teacher)
    except ValueError as error:
        if _belong_to(prototypes, student):
            raise ValueError(
                "`teacher` and `student` are swapped: the teacher comes first. Received: "
                f"teacher={teacher.name!r} and student={student.name!r}, whose prototypes these are"
            ) from error
        raise


def _belong_to(prototypes, model):
    try:
        prototypes.check_teacher(model)
    except ValueError:
        return False
    return True


def check_takes_kd_layer(shape, layer, argument):
    """Refuse a layer of a student that no KD layer can follow.

    Args:
        shape: Shape of the layer's output, with the batch dimension.
        layer: Name of the layer.
        argument: Name of the argument that named it, for the error.

    Raises:
        ValueError: If the output is no feature map.
    """
    if len(shape) != 4:
        raise ValueError(
            f"`{argument}` must name a layer of the student with a feature map [B, H, W, C], "
            "which KD layers need: only a teacher may have tokens. "
            f"Received: {argument}={layer!r} of shape {tuple(shape)}"
        )


def score_grid(teacher, student, layer, prototypes, level, image_shape=None):
    """The grid on which a student's scores and the targets are compared, if it takes resizing.

    Args:
        teacher: Functional teacher. Where the student takes images of any size, it is asked for
            their size.
        student: Functional student.
        layer: Name of the student's layer that the KD layer follows.
        prototypes: `PenultimatePrototypes` or `IntermediatePrototypes` of the level.
        level: `"penultimate"` or `"intermediate"`.
        image_shape: Size of the images where neither model says it, or `None`.

    Returns:
        `(height, width)`, the smaller of the student's and the prototypes', or `None` where the two
        grids are equal or the student's is not known.

    Raises:
        ValueError: If the layer has no feature map, or layers have another data format than Keras.
    """
    flat = flatten(student)
    check_data_format(flat)
    output = output_of(flat, find_layer(flat, layer, argument=f"{level}_layer"))
    check_takes_kd_layer(output.shape, layer, f"{level}_layer")
    grid = spatial_shape(output.shape)
    if None in grid:
        shape = tuple(teacher.inputs[0].shape[1:])
        shape = tuple(image_shape or shape) if None in shape else shape
        if None in shape:
            return None
        grid = spatial_shape(output_shape_of(flat, layer, shape))
    if tuple(grid) == tuple(prototypes.grid):
        return None
    return tuple(min(sizes) for sizes in zip(grid, prototypes.grid, strict=True))
