"""The teacher of a run: loaded, or trained phase by phase in the run folder."""

import logging
from contextlib import nullcontext
from pathlib import Path

import keras

from letkd_keras.chance import is_near_chance
from letkd_keras.files import checksum, save_model
from letkd_keras.functional import load_model
from letkd_keras.models import frozen_backbone
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.experiments.remedies import remedies
from letkd_keras.recipes.trainings import accuracies, training_folder
from letkd_keras.recipes.trainings.training_state import finish
from letkd_keras.recipes.workers.shared_training import train

log = logging.getLogger(__name__)

# In the folder of a student: its teacher, where that was trained in the run folder.
TEACHER = "teacher.json"

_PHASES = {
    "teacher_schedule": "training the teacher %s",
    "head_schedule": "training a head of the teacher %s on its frozen features",
    "fine_tune_schedule": "fine-tuning the teacher %s",
}


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
        logs = teacher.evaluate(data.evaluation_batches(), return_dict=True, verbose=0)
        result = {
            "file": network.name,
            "accuracy_last": 100 * logs["accuracy"],
            "parameters": teacher.count_params(),
        }
    accuracy = accuracies.accuracy_of(result)
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
        result = None if file is None else training_folder.finished(Path(file).parent)
    except ValueError:  # a result.json of another program
        return False
    return result is not None and abs(accuracies.accuracy_of(result) - accuracy) < 1


def _check_students(folder):
    """Refuse students of another teacher than the folder has, before a teacher is trained."""
    teacher = teacher_in(folder)
    others = dict.fromkeys(
        str(training.parent)
        for method, _, training in training_folder.student_trainings(folder)
        if methods.is_known(method) and (training / TEACHER).exists()
        if training_folder.read_checked_json(training / TEACHER) != teacher
    )
    if others:
        raise ValueError(
            f"The students in {', '.join(others)} were trained under a teacher that "
            f"{folder / 'teacher'} no longer has: delete these folders, or choose another `out`."
        )


def teacher_in(folder):
    """What a student's folder says of the teacher that was trained in the run folder, or `None`."""
    result = training_folder.finished(folder / "teacher")
    return result and {"model_sha256": result["model_sha256"]}


def _train_phases(experiment, folder):
    """Train a teacher phase by phase; all but the last one have a folder of their own below."""
    phases = list(experiment.teacher_phases.items())
    before = None
    for name, schedule in phases:
        last = (name, schedule) == phases[-1]
        training = folder if last else folder / name.removesuffix("_schedule")
        result = training_folder.finished(training)
        if result is None:
            result = _train_phase(experiment, name, schedule, before, training)
        before = training / "teacher.keras"
        training_folder.check_file(before, result["model_sha256"])
    return load_model(before, "teacher"), result


def _train_phase(experiment, name, schedule, before, training):
    """Train a teacher, new or from the file of the phase before, and save it in a folder."""
    log.info(_PHASES[name], experiment.teacher.label)
    keras.utils.set_random_seed(experiment.seed)
    of_head = name == "head_schedule"
    with schedule.precision():
        if before is None:
            teacher = experiment.teacher.build(experiment.data, "teacher")
        else:
            teacher = load_model(before, "teacher")
        with frozen_backbone(teacher) if of_head else nullcontext():
            result = train(
                teacher,
                experiment.data.labelled(),
                schedule,
                training,
                seed=experiment.seed,
                augmentation=experiment.augmentation,
                callbacks=experiment.callbacks,
                class_weights=experiment.class_weights,
                # No option sets the learning rate of a head.
                remedies=remedies(schedule, None if of_head else "--teacher-learning-rate"),
            )
    result["parameters"] = teacher.count_params()
    # Without the optimizer, whose variables may be those of the head only.
    plain = keras.Model(teacher.inputs[0], teacher.outputs[0], name=teacher.name)
    save_model(plain, training / "teacher.keras")
    result["model_sha256"] = checksum(training / "teacher.keras")
    finish(training, result)
    return result
