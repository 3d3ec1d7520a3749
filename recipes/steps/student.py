"""A student of a run: trained by a method, and further under fake quantization."""

import logging
from dataclasses import replace

import keras

from letkd_keras.distillers import Distiller
from letkd_keras.files import checksum, save_model
from letkd_keras.functional import load_model, quantization_aware, without_fake_quantization
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.experiments.model_of_method import build
from letkd_keras.recipes.experiments.remedies import remedies
from letkd_keras.recipes.steps.teacher import TEACHER, teacher_in
from letkd_keras.recipes.trainings import accuracies, training_folder
from letkd_keras.recipes.trainings.training_state import finish
from letkd_keras.recipes.workers.shared_training import train

log = logging.getLogger(__name__)


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
    training = training_folder.student_folder(folder, method, seed)
    own_teacher = methods.parse(method)[0].distiller and teacher_in(folder)
    if own_teacher and training_folder.finished(training) is None:
        training_folder.write_checked_json(training / TEACHER, own_teacher)
    arguments = (experiment, method, seed, teacher, prototypes)
    if experiment.quantization_aware_schedule is None:
        result = _train_student(*arguments, training)
    else:
        before = _train_student(*arguments, training / "float")
        result = _train_student(*arguments, training, before)
    training_folder.check_student(training, result)
    return result


def _train_student(experiment, method, seed, teacher, prototypes, training, before=None):
    """Train a student in a folder, or further under fake quantization after a result `before`."""
    result = training_folder.finished(training)
    if result is not None:
        return result
    further = before is not None
    schedule = experiment.quantization_aware_schedule if further else experiment.student_schedule
    log.info(
        "training the student %s: %s, seed %d%s",
        experiment.student.label,
        methods.title(method),
        seed,
        ", under fake quantization" if further else "",
    )
    # All methods of a trial start from the same weights.
    keras.utils.set_random_seed(seed)
    data = experiment.student_data
    with schedule.precision():
        if further:
            file = training / "float" / "student.keras"
            training_folder.check_file(file, before["model_sha256"])
            student = quantization_aware(load_model(file, "student"))
        else:
            student = experiment.student.build(data, "student")
        own = replace(experiment, data=data, student_schedule=schedule)
        model = build(method, teacher, student, prototypes, own)
        if not isinstance(model, Distiller):
            # Without a teacher nothing can be learned of an image without a label.
            data = data.labelled(repeat=True)
        typed_rate = experiment.student_schedule.learning_rate
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
            remedies=remedies(schedule, "--learning-rate", typed_rate),
        )
    trained = without_fake_quantization(getattr(model, "student", model))
    result["parameters"] = trained.count_params()
    if further:
        result["parameters_plain"] = before["parameters_plain"]
        result["accuracy_before_quantization"] = accuracies.accuracy_of(before)
        result["seconds"] += before["seconds"]
    else:
        result["parameters_plain"] = student.count_params()
    save_model(trained, training / "student.keras")
    result["model_sha256"] = checksum(training / "student.keras")
    finish(training, result)
    return result
