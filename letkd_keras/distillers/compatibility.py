"""Whether a teacher, a student and prototypes fit each other; all distillers ask here."""

import logging

import keras
import numpy as np

from letkd_keras.data.image_data import UNLABELLED
from letkd_keras.functional.graph import (
    check_data_format,
    find_layer,
    flatten,
    output_of,
    output_shape_of,
    spatial_shape,
)
from letkd_keras.functional.softmax_removal import remove_softmax

log = logging.getLogger(__name__)

# Images that are looked at together.
_BLOCK = 256


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
        ValueError: If a model is not functional, does not end in logits or a softmax, or the
            models' input shapes or numbers of classes differ.
    """
    student = remove_softmax(student, "student")
    if teacher is None:
        return None, student
    teacher = remove_softmax(teacher, "teacher")
    shapes = [tuple(model.inputs[0].shape[1:]) for model in (teacher, student)]
    if not _compatible(*shapes):
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


# Layers of Keras that move the pixels of an image.
_MOVING = {
    *("RandomCrop", "RandomElasticTransform", "RandomFlip", "RandomPerspective"),
    *("RandomRotation", "RandomShear", "RandomTranslation", "RandomZoom"),
}


# Losses of Keras, without underscores, that have no logits.
_OF_PROBABILITIES = {"kldivergence", "poisson", "dice", "tversky"}


def check_takes_logits(loss):
    """Refuse a cross-entropy of probabilities: a distiller's outputs are logits.

    Args:
        loss: What `compile` was given.

    Raises:
        ValueError: If it is a cross-entropy of Keras without `from_logits=True`, or another loss of
            Keras on probabilities.
    """
    for each in keras.tree.flatten(loss):
        found = keras.losses.get(each) if isinstance(each, str) else each
        if _is_of_probabilities(found):
            raise ValueError(
                "`loss` must take logits, since a softmax at the end of the student is removed: "
                "keras.losses.SparseCategoricalCrossentropy(from_logits=True). "
                f"Received: loss={each if isinstance(each, str) else _name(found)} of probabilities"
            )


def _is_of_probabilities(loss):
    """Whether it is a loss of Keras, an object or a function, without `from_logits=True`."""
    name = _name(loss)
    of_keras = getattr(keras.losses, name, None) in (loss, type(loss))
    kind = name.lower().replace("_", "")
    of_probabilities = kind.endswith("crossentropy") or kind in _OF_PROBABILITIES
    return of_keras and of_probabilities and not getattr(loss, "from_logits", False)


def _name(loss):
    return getattr(loss, "__name__", type(loss).__name__)


# Metrics of Keras that compare outputs with thresholds, which are probabilities.
_WITH_THRESHOLDS = (
    *(keras.metrics.AUC, keras.metrics.BinaryAccuracy),
    *(keras.metrics.Precision, keras.metrics.Recall),
    *(keras.metrics.PrecisionAtRecall, keras.metrics.RecallAtPrecision),
    *(keras.metrics.SensitivityAtSpecificity, keras.metrics.SpecificityAtSensitivity),
    *(keras.metrics.TruePositives, keras.metrics.TrueNegatives),
    *(keras.metrics.FalsePositives, keras.metrics.FalseNegatives),
)


def check_metrics(metrics, losses):
    """Refuse metrics whose values would be wrong, or would be replaced in the logs.

    Args:
        metrics: The compiled metrics, a list of `keras.metrics.Metric`.
        losses: Names of the losses in the logs.

    Raises:
        ValueError: If a metric of Keras takes probabilities, or has the name of a loss.
    """
    for metric in metrics:
        if _takes_probabilities(metric):
            raise ValueError(
                "`metrics` must take logits, which a distiller's student puts out: set "
                "`from_logits=True`, or evaluate "
                "keras.Sequential([distiller.student, keras.layers.Softmax()]) by the metric. "
                f"Received: metric {metric.name!r} of probabilities"
            )
        if metric.name in losses:
            raise ValueError(
                f"`metrics` must not have the name of a loss in the logs ({', '.join(losses)}): "
                "rename the metric, or the loss in `logit_losses`. "
                f"Received: metric {metric.name!r}"
            )


def _takes_probabilities(metric):
    if getattr(keras.metrics, type(metric).__name__, None) is not type(metric):
        return False  # of one's own
    # Precision and recall with `top_k` look at the order alone.
    if type(metric) in _WITH_THRESHOLDS and getattr(metric, "top_k", None) is None:
        of_probabilities = True
    else:
        of_probabilities = _is_of_probabilities(getattr(metric, "_fn", metric))
    return of_probabilities and not metric.get_config().get("from_logits", False)


# Largest integer up to which a type has all integers.
_LARGEST_EXACT = {"bfloat16": 2**8, "float16": 2**11}


def check_tells_classes(loss, classes):
    """Refuse a loss of half precision with more classes than it tells apart.

    Keras casts labels to the type of the loss.

    Args:
        loss: What `compile` was given.
        classes: Number of classes.

    Raises:
        ValueError: If the loss would round indices of classes.
    """
    for each in keras.tree.flatten(loss):
        dtype = getattr(each, "dtype", keras.config.floatx())
        if classes - 1 > _LARGEST_EXACT.get(dtype, classes):
            raise ValueError(
                f"`loss` must have dtype='float32' for {classes} classes, since Keras rounds "
                f"labels to its dtype. Received: loss={_name(each)} with dtype={dtype}"
            )


def _compatible(first, second):
    """Whether two shapes are equal where both are known."""
    if len(first) != len(second):
        return False
    return all(a == b or None in (a, b) for a, b in zip(first, second, strict=True))


def check_images_and_labels(images, labels, classes, takes_unlabelled=False):
    """Refuse NumPy arrays that would make the loss NaN; other kinds of data are not looked at.

    Args:
        images: Array [N, ...], or anything else that `fit` takes.
        labels: Integers [N] or [N, 1], or distributions [N, classes], likewise.
        classes: Number of classes.
        takes_unlabelled: Whether labels may be -1, for images without a label.

    Raises:
        ValueError: If an image is not finite or a label is not one of the classes.
    """
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        # Block by block: the result of `isfinite` has an entry for each pixel.
        for start in range(0, len(images), _BLOCK):
            finite = np.isfinite(images[start : start + _BLOCK]).reshape(-1, images[0].size)
            if not finite.all():
                bad = start + int(np.argmin(finite.all(axis=1)))
                raise ValueError(
                    f"`x` must be finite. Received: NaN or infinite values in image {bad}"
                )
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iufb":
        return
    if labels.ndim == 2 and labels.shape[1] == classes:
        if not np.isfinite(labels).all():
            raise ValueError("`y` must be finite. Received: labels with NaN or infinite values")
        return
    smallest = UNLABELLED if takes_unlabelled else 0
    known = (labels >= smallest) & (labels < classes) & (labels % 1 == 0)
    if not np.all(known):
        unlabelled = f", or {UNLABELLED} for images without a label" if takes_unlabelled else ""
        raise ValueError(
            f"`y` must be integers from 0 to {classes - 1}, the classes of the student, or "
            f"distributions over them{unlabelled}. "
            f"Received: labels from {labels.min()} to {labels.max()} of type {labels.dtype}"
        )
    if np.any(labels < 0):
        log.info("%d of %d images have no label", np.sum(labels < 0), len(labels))


def check_prototypes(teacher, student, prototypes, levels):
    """Refuse prototypes of another teacher, or without the levels wanted.

    Args:
        teacher: Functional teacher that gives logits.
        student: Functional student that gives logits, to tell whether the two are swapped.
        prototypes: `Prototypes`.
        levels: Levels that supervise the student.

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
        prototypes.check_teacher(teacher)
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
    if len(output.shape) != 4:
        raise ValueError(
            f"`{level}_layer` must name a layer of the student with a feature map [B, H, W, C], "
            "which KD layers need: only a teacher may have tokens. "
            f"Received: {level}_layer={layer!r} of shape {tuple(output.shape)}"
        )
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
