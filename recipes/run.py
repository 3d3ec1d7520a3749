"""An experiment in its folder: teacher, prototypes, students, exported student, report."""

import logging
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from letkd_keras.commands.log_file import logged_to, recorded
from letkd_keras.commands.run_folder import (
    OtherSettings,
    RunFolder,
    is_run_folder,
    read_config,
)
from letkd_keras.data import NumberedBatches
from letkd_keras.distillers import Distiller
from letkd_keras.files import checksum, save_model
from letkd_keras.functional import load_model, quantization_aware, without_fake_quantization
from letkd_keras.functional.classifier import is_near_chance
from letkd_keras.models import frozen_backbone
from letkd_keras.prototypes import Prototypes, fit_prototypes, remove_workdir
from letkd_keras.recipes import exporting
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.experiments.model_of_method import build
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.reports import class_report, report
from letkd_keras.recipes.reports.measures import measure_networks
from letkd_keras.recipes.trainings import gpus, results, workers
from letkd_keras.recipes.trainings.ray_workers import RayWorkers
from letkd_keras.recipes.trainings.shared_training import train
from letkd_keras.recipes.trainings.training_state import finish

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
    """
    with recorded() as messages:
        experiment = prepare(experiment)
    earlier = read_config(out) if is_run_folder(out) else {}
    sizes = _sizes_of_all_starts(experiment.sizes, earlier.get("sizes", {}))
    experiment = replace(experiment, sizes=sizes)
    with opened(experiment, out, messages) as folder:
        log.info("run folder %s", folder)
        exporting.warn_about_another(experiment, earlier.get("export_method"), folder)
        try:
            return _run(experiment, folder, measures)
        except Exception as error:
            _look_for_broken_images(experiment.data, error)
            raise


@contextmanager
def opened(experiment, out, messages):
    """A scope in which an experiment runs in its folder, which no other process writes to.

    Args:
        experiment: `Experiment`, prepared.
        out: Run folder: new, or that of an earlier run with the same settings.
        messages: Records of `recorded`, for the log file of the folder.

    Yields:
        Path of the folder.

    Raises:
        ValueError: If the folder does not fit, or another process writes to it.
    """
    folder = RunFolder(out, experiment.config(), open_keys=experiment.open_keys)
    with folder.locked(), logged_to(folder / "log.txt", messages), gpus.scope():
        yield folder.path


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
    for method in experiment.methods:
        for seed in experiment.seeds:
            result = train_student(experiment, method, seed, teacher, prototypes, folder)
            accuracy = results.accuracy_of(result)
            log.info("%s, seed %d: %.2f%% top-1", methods.title(method), seed, accuracy)
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
    return written


def _look_for_broken_images(data, error):
    """Name the image files that stopped a training, where images are read from disk."""
    # TensorFlow's class, by its name: it may not be installed.
    if type(error).__name__ == "InvalidArgumentError" and not data.in_memory:
        log.warning("The training stopped. Looking for images that cannot be read.")
        data.check()


def train_teacher(experiment, folder):
    """The trained teacher: that of its file, or trained or fine-tuned once in the folder.

    Args:
        experiment: `Experiment`, prepared.
        folder: Path of the run folder.

    Returns:
        `(model, result)`.

    Raises:
        ValueError: If a file of an earlier start is damaged, or the folder has students of another
            teacher.
    """
    network, data = experiment.teacher, experiment.data.labelled()
    phases = experiment.teacher_phases
    if phases:
        _check_students(folder)
        teacher, result = _train_phases(experiment, folder / "teacher")
    else:
        teacher = network.build(data, "teacher")
        # Keras evaluates nothing without a loss.
        teacher.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        logs = teacher.evaluate(data.evaluation_batches(256), return_dict=True, verbose=0)
        result = {
            "file": network.name,
            "accuracy_last": 100 * logs["accuracy"],
            "parameters": teacher.count_params(),
        }
    accuracy = results.accuracy_of(result)
    log.info("teacher %s: %.2f%% top-1", network.label, accuracy)
    if (
        not phases
        and is_near_chance(accuracy / 100, data.num_classes)
        and not _was_trained_by_recipe(network.file, accuracy)
    ):
        log.warning(
            "The teacher is hardly better than chance on the test images. Was it trained on pixels "
            "of the same scale?"
        )
    return teacher, result


def _was_trained_by_recipe(file, accuracy):
    """Whether a recipe trained the network of a file, to this accuracy."""
    try:
        result = None if file is None else results.finished(Path(file).parent)
    except ValueError:  # a result.json of another program
        return False
    return result is not None and abs(results.accuracy_of(result) - accuracy) < 1


def _check_students(folder):
    """Refuse students of another teacher than the folder has, before a teacher is trained."""
    teacher = _teacher_in(folder)
    others = dict.fromkeys(
        str(training.parent)
        for method, _, training in results.student_trainings(folder)
        if methods.is_known(method) and (training / _TEACHER).exists()
        if results.read_checked_json(training / _TEACHER) != teacher
    )
    if others:
        raise ValueError(
            f"The students in {', '.join(others)} were trained under a teacher that "
            f"{folder / 'teacher'} no longer has: delete these folders, or choose another `out`."
        )


def _teacher_in(folder):
    """What a student's folder says of the teacher that was trained in the run folder, or `None`."""
    result = results.finished(folder / "teacher")
    return result and {"model_sha256": result["model_sha256"]}


# In the folder of a student: its teacher, where that was trained in the run folder.
_TEACHER = "teacher.json"

_PHASES = {
    "teacher_schedule": "training the teacher %s",
    "head_schedule": "training a head of the teacher %s on its frozen features",
    "fine_tune_schedule": "fine-tuning the teacher %s",
}


def _train_phases(experiment, folder):
    """Train a teacher phase by phase; all but the last one have a folder of their own below."""
    phases = list(experiment.teacher_phases.items())
    before = None
    for name, schedule in phases:
        last = (name, schedule) == phases[-1]
        training = folder if last else folder / name.removesuffix("_schedule")
        file = training / "teacher.keras"
        result = results.finished(training)
        if result is None:
            log.info(_PHASES[name], experiment.teacher.label)
            keras.utils.set_random_seed(experiment.seed)
            with schedule.precision():
                if before is None:
                    teacher = experiment.teacher.build(experiment.data, "teacher")
                else:
                    teacher = load_model(before, "teacher")
                with frozen_backbone(teacher) if name == "head_schedule" else nullcontext():
                    result = train(
                        teacher,
                        experiment.data.labelled(),
                        schedule,
                        training,
                        seed=experiment.seed,
                        augmentation=experiment.augmentation,
                        callbacks=experiment.callbacks,
                        class_weights=experiment.class_weights,
                    )
            result["parameters"] = teacher.count_params()
            # Without the optimizer, whose variables may be those of the head only.
            plain = keras.Model(teacher.inputs[0], teacher.outputs[0], name=teacher.name)
            save_model(plain, file)
            result["model_sha256"] = checksum(file)
            finish(training, result)
        results.check_file(file, result["model_sha256"])
        before = file
    return load_model(before, "teacher"), result


def prototypes_of(experiment, teacher, folder, levels):
    """The teacher's prototypes, fitted once in the folder.

    Args:
        experiment: `Experiment`, prepared.
        teacher: Trained teacher.
        folder: Path of the run folder.
        levels: Levels that are needed.

    Returns:
        `Prototypes`, or `None` if no level is needed.

    Raises:
        ValueError: If `prototypes.npz` is damaged, belongs to another teacher or has other numbers
            of templates, or if `prototypes.work` has an interrupted fit with other settings.
    """
    if not levels:
        return None
    file, work = folder / "prototypes.npz", folder / "prototypes.work"
    if file.exists():
        try:
            prototypes = Prototypes.load(file)
            prototypes.check_teacher(teacher)
            _check_numbers(experiment, prototypes, levels)
        except ValueError as error:
            raise ValueError(
                f"{str(error).rstrip('.')}. Delete {file.name} and run the same command again: the "
                "prototypes are then fitted again, and all trainings are kept."
            ) from error
        if set(levels) <= set(prototypes.levels):
            log.info("reusing %s", file.name)
            if "intermediate" in prototypes.levels:
                # All levels are fitted: what is there is the rest of an interrupted removal.
                remove_workdir(work)
            return prototypes
    log.info("fitting prototypes")
    data = with_teachers_classes(experiment.data, teacher)
    try:
        prototypes = fit_prototypes(
            teacher,
            NumberedBatches(data, 256, "train"),
            levels=tuple(levels),
            templates=experiment.templates,
            subclasses=experiment.subclasses,
            components=experiment.components,
            iterations=experiment.iterations,
            memory=experiment.memory,
            feature_cache=experiment.feature_cache,
            seed=experiment.seed,
            penultimate_layer=experiment.teacher.penultimate_layer,
            intermediate_layer=experiment.teacher.intermediate_layer
            if "intermediate" in levels
            else None,
            pool_size={level: experiment.pool_sizes[level] for level in levels},
            data_name=f"{data.name} ({data.split})",
            class_names=data.class_names,
            workdir=work,
            **_engine(),
        )
    except OtherSettings as error:
        raise ValueError(
            f"{work} has an interrupted fit of prototypes with other settings: {error.differing}. "
            f"Delete {work} and run the same command again: the prototypes are then fitted from "
            "the beginning, and all trainings are kept."
        ) from error
    prototypes.save(file)
    remove_workdir(work)
    return prototypes


def _check_numbers(experiment, prototypes, levels):
    expected = {"penultimate": experiment.templates}
    if "intermediate" in levels:
        expected["intermediate"] = experiment.subclasses * experiment.data.num_classes
    for level in set(expected) & set(prototypes.levels):
        templates = getattr(prototypes, level).templates
        if templates != expected[level]:
            raise ValueError(
                f"The prototypes must have {expected[level]} {level} templates. "
                f"Received: {templates} in prototypes.npz"
            )


def with_teachers_classes(data, teacher):
    """The data with the teacher's class for each training image that has no label.

    Args:
        data: `Dataset`.
        teacher: Trained teacher.

    Returns:
        The data set.
    """
    if not data.unlabelled_examples:
        return data
    log.info("the teacher classifies %d images without a label", data.unlabelled_examples)
    known = np.asarray(data.y_train) >= 0
    labels = np.where(known, data.y_train, classes_of(teacher, data, "train"))
    return replace(data, y_train=labels)


def classes_of(model, data, split="test"):
    """The class that a model gives each image of a split, integers [N]."""
    classes = [
        np.argmax(model.predict_on_batch(images), axis=-1)
        for images, _ in data.evaluation_batches(256, split)
    ]
    return np.concatenate(classes)


def _engine():
    """The options of `fit_prototypes` with which Ray's workers share its passes."""
    group = workers.current()
    return {"engine": "ray", "workers": group.devices} if isinstance(group, RayWorkers) else {}


def train_student(experiment, method, seed, teacher, prototypes, folder):
    """Train a student by a method, or continue where that was interrupted.

    With a `quantization_aware_schedule` the student of its folder's folder `float` is trained
    further under fake quantization. The accuracy of the result is then that under fake
    quantization; the student that is saved is a plain one.

    Args:
        experiment: `Experiment`, prepared.
        method: Name of the method.
        seed: Seed of the student.
        teacher: Trained teacher.
        prototypes: Its `Prototypes`, or `None` if the method needs none.
        folder: Path of the run folder.

    Returns:
        The result of the training.

    Raises:
        ValueError: If a file of an earlier start is damaged.
    """
    training = results.student_folder(folder, method, seed)
    own_teacher = methods.parse(method)[0].distiller and _teacher_in(folder)
    if own_teacher and results.finished(training) is None:
        results.write_checked_json(training / _TEACHER, own_teacher)
    arguments = (experiment, method, seed, teacher, prototypes)
    if experiment.quantization_aware_schedule is None:
        result = _train_student(*arguments, training)
    else:
        before = _train_student(*arguments, training / "float")
        result = _train_student(*arguments, training, before)
    results.check_student(training, result)
    return result


def _train_student(experiment, method, seed, teacher, prototypes, training, before=None):
    """Train a student in a folder, or further under fake quantization after a result `before`."""
    result = results.finished(training)
    if result is None:
        file = training / "float" / "student.keras"
        if before is None:
            schedule = experiment.student_schedule
            text = "training the student %s: %s, seed %d"
        else:
            schedule = experiment.quantization_aware_schedule
            text = "training the student %s: %s, seed %d, under fake quantization"
            results.check_file(file, before["model_sha256"])
        log.info(text, experiment.student.label, methods.title(method), seed)
        # All methods of a trial start from the same weights.
        keras.utils.set_random_seed(seed)
        data = experiment.student_data
        own = replace(experiment, data=data, student_schedule=schedule)
        with schedule.precision():
            if before is None:
                student = experiment.student.build(data, "student")
            else:
                student = quantization_aware(load_model(file, "student"))
            model = build(method, teacher, student, prototypes, own)
            if not isinstance(model, Distiller):
                # Without a teacher nothing can be learned of an image without a label.
                data = data.labelled(repeat=True)
            result = train(
                model,
                data,
                schedule,
                training,
                seed=seed,
                augmentation=experiment.augmentation,
                with_rows=methods.parse(method)[0].needs_rows,
                callbacks=experiment.callbacks,
                class_weights=experiment.class_weights,
            )
        trained = without_fake_quantization(getattr(model, "student", model))
        result["parameters"] = trained.count_params()
        if before is None:
            result["parameters_plain"] = student.count_params()
        else:
            result["parameters_plain"] = before["parameters_plain"]
            result["accuracy_before_quantization"] = results.accuracy_of(before)
            result["seconds"] += before["seconds"]
        save_model(trained, training / "student.keras")
        result["model_sha256"] = checksum(training / "student.keras")
        finish(training, result)
    return result
