"""The student of a run that ships: exported, verified and measured."""

import logging

import keras

from letkd_keras.commands.progress import bar
from letkd_keras.export import export_bundle, formats
from letkd_keras.export.cost_report import form_title, forms_of, measure
from letkd_keras.export.evaluation_images import evaluation_images, take
from letkd_keras.export.loading import load_student
from letkd_keras.recipes.trainings import training_folder

log = logging.getLogger(__name__)

_IMAGES = 1000
_MEASURED = "tflite"


def warn_about_another(experiment, earlier, folder):
    """Warn that the exported student of an earlier start will be replaced.

    Args:
        experiment: `Experiment`.
        earlier: Method whose student the earlier start exported, or `None`.
        folder: Path of the run folder.
    """
    replaced = earlier not in (None, experiment.export_method) and (folder / "exported").exists()
    if _exports(experiment) and replaced:
        log.warning(
            "%s will have the student by %s, the last of the methods, in place of that by %s. "
            "python -m letkd_keras.export %s --out DIR exports the earlier one to another folder.",
            folder / "exported",
            experiment.export_method,
            earlier,
            training_folder.student_folder(folder, earlier, experiment.seed),
        )


def _exports(experiment):
    """Whether a run exports a student with this backend."""
    return experiment.export_method is not None and keras.backend.backend() == "tensorflow"


def export(experiment, folder):
    """Export the first student of the method to export, with its card.

    Args:
        experiment: `Experiment`.
        folder: Path of the run folder.

    Returns:
        `Exported` by format. It is empty if nothing is to be exported, and on other backends than
        TensorFlow.

    Raises:
        ExportMismatch: If a format was refused; its `exported` has the other formats.
    """
    if experiment.export_method is None:
        return {}
    if keras.backend.backend() != "tensorflow":
        log.info(
            "Nothing is exported, since that needs TensorFlow. Where it is installed, run: "
            "KERAS_BACKEND=tensorflow python -m letkd_keras.export %s --formats %s --out exported",
            folder,
            " ".join(experiment.formats),
        )
        return {}
    # As the command `export` opens the data of a run.
    data = experiment.data.labelled()
    log.info("exporting to %s", ", ".join(experiment.formats))
    return export_bundle(
        folder,
        folder / "exported",
        experiment.formats,
        **evaluation_images(data, _IMAGES, seed=experiment.seed).options(),
        data_name=f"{data.name}, {data.split}",
    )


def costs(experiment, folder):
    """Measure the exported student beside the plain one: size, multiply-adds, latency, accuracy.

    Args:
        experiment: `Experiment`.
        folder: Path of the run folder.

    Returns:
        `(rows, images)`: `CostRow`s, and the number of test images of their top-1. There are no
        rows if nothing is exported, the student cannot be folded, or nothing runs TFLite. Forms
        that cannot be measured are left out with a warning.
    """
    if not _exports(experiment):
        return [], 0
    try:
        formats.check_installed([_MEASURED])
    except ImportError as error:
        log.warning("no table of costs: %s", error)
        return [], 0
    student = load_student(folder)
    images, labels = take(experiment.data, "test", _IMAGES, experiment.seed)
    log.info("measuring size and latency of the student")
    alone = training_folder.student_folder(folder, "student", experiment.seed)
    plain = None
    if training_folder.finished(alone) is not None:
        plain = load_student(alone / "student.keras")
    try:
        # A user's network that cannot be folded is no reason to lose a run.
        forms = forms_of(student, images, labels, plain)
    except ValueError as error:
        log.warning("no table of costs: %s", error)
        return [], 0
    rows, failures = [], {}
    with bar("measuring", len(forms)) as advance:
        for form, (model, known) in forms.items():
            advance(form_title(form), parts=0)
            options = {"images": images, "labels": known, "repeats": 10, "name": student.name}
            try:
                rows.append(measure(model, form, _MEASURED, **options))
            except (ValueError, OSError) as error:  # TFLite cannot have every network
                failures[form_title(form)] = error
            advance()
    if failures:
        reason = next(iter(failures.values()))
        log.warning("the table of costs lacks the forms %s: %s", ", ".join(failures), reason)
    return rows, len(images)
