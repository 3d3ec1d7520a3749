"""An experiment in its folder: teacher, prototypes, students, exported student, report."""

import logging
from dataclasses import replace

from letkd_keras.commands.log_file import recorded
from letkd_keras.commands.run_folder import is_run_folder, read_config
from letkd_keras.files import write_text
from letkd_keras.recipes import exporting
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.reports import class_report, method_table, report
from letkd_keras.recipes.reports.measures import measure_networks
from letkd_keras.recipes.steps.opened_folder import opened
from letkd_keras.recipes.steps.prototypes import prototypes_of
from letkd_keras.recipes.steps.student import train_student
from letkd_keras.recipes.steps.teacher import train_teacher
from letkd_keras.recipes.trainings import accuracies, training_folder

log = logging.getLogger(__name__)


def run(experiment, out, measures=None):
    """Run an experiment, or what is missing of it, in a folder.

    Args:
        experiment: `Experiment`.
        out: Run folder: new, or that of an earlier run with the same settings. Methods and trials
            can be added.
        measures: Function from logits [N, classes] and labels [N] of the test images to a
            dictionary of numbers by name, which the report adds for every network; or `None`.

    Returns:
        The report as a dictionary; it is also in `report.json` and `report.md`.

    Raises:
        ValueError: If the experiment or the folder does not fit; before any training. If the
            student cannot be exported; after the report.
        ExportMismatch: If a format of the export was refused (a `ValueError`); after the report.
        FloatingPointError: If the loss of a training is not finite. If other students were trained,
            after the report.
    """
    with recorded() as messages:
        experiment = prepare(experiment)
    earlier = read_config(out) if is_run_folder(out) else {}
    sizes = _sizes_of_all_starts(experiment.sizes, earlier.get("sizes", {}))
    experiment = replace(experiment, sizes=sizes)
    with opened(experiment, out, messages) as folder:
        log.info("run folder %s", folder)
        method_table.warn_about_unknown(folder)
        exporting.warn_about_another(experiment, earlier.get("export_method"), folder)
        return _run(experiment, folder, measures)


def _sizes_of_all_starts(sizes, earlier):
    """The sizes of an experiment, with the larger KD layers that an earlier start had."""
    role = "student_with_kd_layers"
    kept = earlier.get(role)
    if kept is None or kept["parameters"] <= sizes.get(role, sizes["student"])["parameters"]:
        return sizes
    return {**sizes, role: kept}


def _run(experiment, folder, measures):
    teacher, teacher_result = train_teacher(experiment, folder)
    prototypes = prototypes_of(experiment, teacher, folder, experiment.levels)
    diverged = _train_students(experiment, teacher, prototypes, folder)
    names = "; ".join(f"{methods.title(method)}, seed {seed}" for method, seed in diverged)
    if diverged and not _has_students(folder):
        raise FloatingPointError(f"{names}: {next(iter(diverged.values()))}")
    if (experiment.export_method, experiment.seed) in diverged:
        experiment = replace(experiment, export_method=None)
    refused = None
    try:
        exported = exporting.export(experiment, folder)
    except ValueError as error:
        # The report of a long training needs no file of the student.
        exported, refused = getattr(error, "exported", {}), error
    costs = exporting.costs(experiment, folder)
    classes = class_report.of_run(experiment, folder, teacher)
    measured = measures and measure_networks(experiment, folder, teacher, measures)
    written = report.write(experiment, folder, teacher_result, exported, costs, measured, classes)
    if refused is not None:
        raise refused
    if diverged:
        raise FloatingPointError(
            f"{names}: {next(iter(diverged.values()))} The other students and their report.md are "
            f"in {folder}."
        )
    return written


def _train_students(experiment, teacher, prototypes, folder):
    """Train all students; returns the errors of those whose loss was not finite."""
    trainings = [(method, seed) for method in experiment.methods for seed in experiment.seeds]
    diverged = {}
    for method, seed in trainings:
        name = f"{methods.title(method)}, seed {seed}"
        try:
            result = train_student(experiment, method, seed, teacher, prototypes, folder)
        except FloatingPointError as error:
            # The other students of a long training, and their report, do not depend on this one.
            diverged[method, seed] = error
            log.warning("%s: %s", name, error)
            training = training_folder.student_folder(folder, method, seed)
            write_text(training / "error.txt", f"{error}\n")
        else:
            log.info("%s: %.2f%% top-1", name, accuracies.accuracy_of(result))
    return diverged


def _has_students(folder):
    """Whether a student of any start was trained to its end."""
    trainings = (training for _, _, training in training_folder.student_trainings(folder))
    return any(training_folder.finished(training) is not None for training in trainings)
