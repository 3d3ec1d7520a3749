"""The job of an export: a student, loaded, checked and folded, and what it is compared on."""

import logging
import re
from dataclasses import dataclass, replace

import keras
import numpy as np

from letkd_keras.export.batch_norm_folding import untrained_batch_norms
from letkd_keras.export.comparison import expected_outputs
from letkd_keras.export.folding import fold as fold_model
from letkd_keras.export.images_and_labels import check_labels, images_for
from letkd_keras.export.input_scaling import takes_pixels, with_pixel_input
from letkd_keras.export.loading import load_student
from letkd_keras.export.options import ExportOptions
from letkd_keras.functional.graph import layers_inside, nodes

log = logging.getLogger(__name__)

# What names in a TensorFlow graph consist of. The names of the model and of the outermost layers
# also have one of the first characters.
_FIRST, _LATER = r"[A-Za-z0-9.]", r"[A-Za-z0-9_.\\/>-]*"


@dataclass(frozen=True)
class ExportJob:
    """A student that can be written in any number of formats.

    Attributes:
        student: The student before folding.
        written: The model to write: the student, folded or not, from the artifacts' images to
            logits.
        images: Images to verify on, as the artifacts take them.
        labels: Their classes, or `None`.
        real: Whether the images are real ones, not noise.
        reference: What the student in Keras returns for these images.
        options: `ExportOptions`. Its calibration images are as the artifacts take them.
    """

    student: keras.Model
    written: keras.Model
    images: np.ndarray
    labels: np.ndarray | None
    real: bool
    reference: np.ndarray
    options: ExportOptions


def prepare_job(model, *, images=None, labels=None, fold=True, **options):
    """Load, check and fold a student; the arguments are those of `export_student`.

    Returns:
        `ExportJob`.
    """
    student = load_student(model)
    _check_names(student)
    _check_channels_last(student)
    rescales = takes_pixels(student)
    options = ExportOptions(**options).for_student(student, rescales)
    if options.calibration is not None:
        calibration = images_for(student, options.calibration, "calibration", options)
        options = replace(options, calibration=calibration)
    real = images is not None or options.calibration is not None
    if images is None and real:
        images = options.calibration
    else:
        images = images_for(student, images, options=options)
    labels = check_labels(labels, images, student.output_shape[-1])
    untrained = untrained_batch_norms(student)
    if untrained:
        log.warning(
            "batch normalizations of %r whose statistics were never updated: %s",
            student.name,
            untrained,
        )
    reference = expected_outputs(student, images, options)
    if not np.all(np.isfinite(reference)):
        raise ValueError(
            f"`model` must return finite {options.output} for the images. "
            f"Received: model={student.name!r}, which returns NaN or infinity"
        )
    few = options.student_images(images[:64])
    written = fold_model(student, images=few) if fold else student
    if options.input == "pixels" and options.mean is not None:
        student_alone, written = written, with_pixel_input(written, options.mean, options.std)
        if written is not student_alone and rescales:
            log.warning(
                "%r rescales pixels itself, and its files normalize them with `mean` and `std` "
                "before that: leave out `mean` and `std` if it was trained on pixels.",
                student.name,
            )
    return ExportJob(student, written, images, labels, real, reference, options)


def _check_names(student):
    """Refuse names that TensorFlow does not accept. Those of inputs are not written."""
    first = {student.name, *(weight.path.split("/")[0] for weight in student.weights)}
    names = [
        layer.name
        for layer in [student, *layers_inside(student)]
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    refused = [
        name
        for name in names
        if not re.fullmatch(_FIRST + _LATER if name in first else _LATER, name)
    ]
    if refused:
        raise ValueError(
            "`model` and its layers must have names of the letters A to Z and a to z, digits and "
            "_.-, which do not begin with _ or -, for TensorFlow. "
            f"Received: {', '.join(map(repr, refused))}"
        )


def _check_channels_last(student):
    """Refuse a student of images [N, C, H, W], which files and card would describe wrongly."""
    if student.input_shape[1] not in (1, 3):
        return
    for node in nodes(student):
        data_format = getattr(node.operation, "data_format", None)
        if data_format == "channels_first":
            raise ValueError(
                "`model` must take images [N, H, W, C]: put `keras.Input((H, W, C))` and "
                "`keras.layers.Permute((3, 1, 2))` before it in a `keras.Sequential`. "
                f"Received: model={student.name!r} with images {student.input_shape}, whose "
                f"layer {node.operation.name!r} has data_format='channels_first'"
            )
        if data_format is not None:
            return
