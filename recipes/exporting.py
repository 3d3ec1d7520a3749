"""The student that a run ships: exported, verified and measured."""

import logging

import keras

from letkd_keras.export import export_bundle
from letkd_keras.export.cost_report import forms_of, measure
from letkd_keras.export.evaluation_images import take
from letkd_keras.export.loading import load_student
from letkd_keras.functional.cost import cost_of
from letkd_keras.recipes.stages import student_folder

log = logging.getLogger("letkd_keras")

_IMAGES = 1000


def export(experiment, folder):
    """Export the first student of the method to export, with its card.

    Args:
        experiment: `Experiment`.
        folder: `RunFolder`.

    Returns:
        `Exported` by format; empty if the method is not among those of the experiment, and on
        another backend than TensorFlow's.
    """
    if experiment.export_method not in experiment.methods:
        return {}
    if keras.backend.backend() != "tensorflow":
        log.info(
            "not exported, which needs TensorFlow: where that is installed, "
            "python -m letkd_keras.export %s --formats %s --out exported",
            folder.path,
            " ".join(experiment.formats),
        )
        return {}
    data = experiment.data
    log.info("exporting to %s", ", ".join(experiment.formats))
    images, labels = _test_images(data)
    return export_bundle(
        folder.path,
        folder / "exported",
        experiment.formats,
        images=images,
        labels=labels,
        mean=data.mean,
        std=data.std,
        class_names=data.class_names,
        data_name=f"{data.name}, {data.split}",
    )


def costs(experiment, folder):
    """Measure the exported student beside the plain one: size, multiply-adds, latency, accuracy.

    Args:
        experiment: `Experiment`.
        folder: `RunFolder`.

    Returns:
        `CostRow`s; empty if nothing is exported or multiply-adds cannot be counted.
    """
    exports = keras.backend.backend() == "tensorflow"
    if not exports or experiment.export_method not in experiment.methods:
        return []
    student = load_student(folder.path)
    images, labels = _test_images(experiment.data)
    try:
        cost_of(student, images.shape[1:])
    except ValueError as error:
        # A layer that is not known there, in a network of one's own: no reason to lose a run.
        log.warning("no table of costs: %s", error)
        return []
    log.info("measuring what the student costs")
    place = student_folder(folder, "student", experiment.seed) / "student.keras"
    plain = load_student(place) if "student" in experiment.methods else None
    return [
        measure(model, form, "tflite", images=images, labels=known, repeats=10, name=student.name)
        for form, (model, known) in forms_of(student, images, labels, plain).items()
    ]


def _test_images(data):
    """Test images, normalized, and labels."""
    return take(data, "test", _IMAGES)
