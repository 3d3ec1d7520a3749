"""The stages of an experiment in its folder: networks, teacher, prototypes, a student."""

import json
import logging
import os
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import keras

from letkd_keras import Prototypes, fit_prototypes
from letkd_keras.functional.layer_suggestions import suggest_stage_ends
from letkd_keras.prototypes import remove_workdir
from letkd_keras.recipes import methods, networks
from letkd_keras.recipes.run_folder import save_model
from letkd_keras.recipes.training import accuracy_of, finish, finished, train

log = logging.getLogger("letkd_keras")


@dataclass(frozen=True)
class Taps:
    """Where the networks of an experiment are tapped.

    Attributes:
        teacher: The teacher's layers by level.
        student: The student's layers by level.
        pools: Windows by level by which the teacher's grid becomes the student's.
    """

    teacher: dict
    student: dict
    pools: dict


def devices():
    """The scope of a run's devices: `MirroredStrategy` where TensorFlow has several GPUs.

    Elsewhere the backend's own choice, on JAX its first device.
    """
    if keras.backend.backend() != "tensorflow":
        return nullcontext()
    import tensorflow as tf

    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy().scope()
    return tf.distribute.get_strategy().scope()


def _check_one_machine():
    workers = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {}).get("worker", [])
    if len(workers) > 1:
        raise ValueError(
            "Recipes run on one machine with all of its GPUs: `TF_CONFIG` must not name several "
            "workers. To train on several machines call `fit` of a distiller under "
            "`MultiWorkerMirroredStrategy` in a program of your own (docs/speed.md). "
            f"Received: workers {workers}"
        )


def check(experiment):
    """Look for errors that need no training to be seen.

    Args:
        experiment: `Experiment`.

    Returns:
        The experiment's `Taps`.

    Raises:
        ValueError: If the experiment does not fit or `TF_CONFIG` names several workers.
        FileNotFoundError: If the file of a network is not there.
    """
    _check_one_machine()
    for method in experiment.methods:
        methods.check(method, experiment.data)
    if experiment.trials < 1:
        raise ValueError(f"`trials` must be at least 1. Received: trials={experiment.trials}")
    examples = experiment.data.train_examples
    for schedule in (experiment.teacher_schedule, experiment.student_schedule):
        if schedule.batch_size > examples:
            raise ValueError(
                f"`batch_size` must be at most the {examples} training images. "
                f"Received: batch_size={schedule.batch_size}"
            )
    teacher = experiment.teacher.build(experiment.data, "teacher")
    student = experiment.student.build(experiment.data, "student")
    if methods.tap_stages(experiment.methods):
        for model in (teacher, student):
            suggest_stage_ends(model)
    levels = methods.tapped(experiment.methods)
    if not levels:
        return Taps({}, {}, {})
    teacher_layers = experiment.teacher.taps(teacher, "teacher")
    student_layers = experiment.student.taps(student, "student")
    for level in levels:
        for argument, taps in (("teacher", teacher_layers), ("student", student_layers)):
            if taps[level] is None:
                raise ValueError(
                    f"No {level} tap can be proposed for the {argument}: name one of its layers, "
                    "or distil by letkd1, which needs none."
                )
    pools = networks.pools(teacher, teacher_layers, student, student_layers, experiment.levels)
    if not experiment.levels:
        return Taps(teacher_layers, student_layers, pools)
    height, width = networks.grid(teacher, teacher_layers["penultimate"])
    pool = pools["penultimate"]
    points = examples * (height // pool) * (width // pool)
    if points < experiment.templates:
        raise ValueError(
            f"`templates` must be at most the {points} feature vectors of the training set. "
            f"Received: templates={experiment.templates}"
        )
    return Taps(teacher_layers, student_layers, pools)


def teacher(experiment, folder, verbose):
    """The trained teacher: of its file, or trained once in the folder.

    Returns:
        `(model, result)`.
    """
    network = experiment.teacher
    if network.is_file:
        model = network.build(experiment.data, "teacher")
        result = {"file": network.name, **_evaluate(model, experiment)}
    else:
        model, result = _trained_teacher(experiment, folder / "teacher", verbose)
    log.info("teacher %s: %.2f%%", network.title, accuracy_of(result))
    if accuracy_of(result) < 200 / experiment.data.num_classes:
        log.warning(
            "The teacher is hardly better than chance on the test images. Does it take them as "
            "this recipe normalises them?"
        )
    return model, result


def _trained_teacher(experiment, place, verbose):
    result = finished(place)
    if result is None:
        log.info("training the teacher %s", experiment.teacher.title)
        keras.utils.set_random_seed(experiment.seed)
        teacher = experiment.teacher.build(experiment.data, "teacher")
        result = train(
            teacher,
            experiment.data,
            experiment.teacher_schedule,
            place,
            seed=experiment.seed,
            augmentation=experiment.augmentation,
            verbose=verbose,
        )
        result["parameters"] = teacher.count_params()
        save_model(teacher, place / "teacher.keras")
        finish(place, result)
    return keras.models.load_model(place / "teacher.keras", compile=False), result


def _evaluate(teacher, experiment):
    # Keras evaluates nothing without a loss.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(loss=loss, metrics=["accuracy"])
    batches = experiment.data.evaluation_batches(256)
    accuracy = 100 * teacher.evaluate(batches, return_dict=True, verbose=0)["accuracy"]
    return {"accuracy_last": accuracy, "parameters": teacher.count_params()}


def prototypes(experiment, taps, teacher, folder, verbose):
    """The teacher's prototypes, fitted once in the folder; `None` if no method needs any."""
    levels = experiment.levels
    if not levels:
        return None
    file = folder / "prototypes.npz"
    if file.exists():
        log.info("reusing %s", file.name)
        found = Prototypes.load(file)
        found.check_teacher(teacher)
        return found
    log.info("fitting prototypes")
    data = experiment.data
    fitted = fit_prototypes(
        teacher,
        data.evaluation_batches(256, "train"),
        templates=experiment.templates,
        subclasses=experiment.subclasses,
        components=experiment.components,
        seed=experiment.seed,
        levels=levels,
        penultimate_layer=taps.teacher["penultimate"],
        intermediate_layer=taps.teacher["intermediate"],
        pool_size={level: taps.pools[level] for level in levels},
        data_name=f"{data.name} ({data.split})",
        workdir=folder / "prototypes.work",
        **experiment.prototype_options,
        verbose=bool(verbose),
    )
    fitted.save(file)
    remove_workdir(folder / "prototypes.work")
    return fitted


def student_folder(folder, method, seed):
    """Where a student's training is."""
    return folder / method / f"seed{seed}"


def student(experiment, taps, method, seed, teacher, prototypes, folder, verbose):
    """Train a student by a method, or go on where that was interrupted.

    Args:
        experiment: `Experiment`.
        taps: Its `Taps`.
        method: Name of the method.
        seed: Seed of the student.
        teacher: Trained teacher.
        prototypes: Its `Prototypes`, or `None` if the method needs none.
        folder: Run folder.
        verbose: Keras' verbosity.

    Returns:
        The result of the training.
    """
    place = student_folder(folder, method, seed)
    result = finished(place)
    if result is None:
        log.info("training %s by %s, seed %d", experiment.student.title, method, seed)
        # The same start for every method of a trial.
        keras.utils.set_random_seed(seed)
        plain = experiment.student.build(experiment.data, "student")
        model = methods.build(method, methods.Setting(plain, teacher, prototypes, experiment, taps))
        result = train(
            model,
            experiment.data,
            experiment.student_schedule,
            place,
            seed=seed,
            augmentation=experiment.augmentation,
            verbose=verbose,
        )
        trained = getattr(model, "student", model)
        result["parameters"] = trained.count_params()
        result["parameters_plain"] = plain.count_params()
        save_model(trained, place / "student.keras")
        finish(place, result)
    log.info("%s, seed %d: %.2f%%", methods.title(method), seed, accuracy_of(result))
    return result


@contextmanager
def logged_to(path):
    """A scope in which what the package logs goes to a file as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
