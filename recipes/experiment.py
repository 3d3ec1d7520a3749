"""Teacher, prototypes, students, export, report: the whole of the method in one run folder."""

import logging
from dataclasses import dataclass
from pathlib import Path

import keras
from letkd_keras.export import export_student
from letkd_keras.recipes import methods, report
from letkd_keras.recipes.pairs import Pair
from letkd_keras.recipes.run_folder import RunFolder, save_model
from letkd_keras.recipes.training import Schedule, finish, finished, schedule_config, train

from letkd_keras import Prototypes, fit_prototypes, models
from letkd_keras.data import ImageData, evaluation_batches
from letkd_keras.insertion import spatial_shape

log = logging.getLogger("letkd_keras")


@dataclass(frozen=True)
class Experiment:
    """Everything a run's results depend on.

    Attributes:
        data: The data set.
        pair: Teacher and student.
        methods: Names of the methods to train the student by.
        teacher_schedule: How the teacher is trained, where no file is given.
        student_schedule: How every student is trained.
        teacher_file: A trained `.keras` teacher, or `None` to train one.
        templates: Penultimate templates.
        subclasses: Sub-classes of each class at the intermediate level.
        components: LDA components.
        crop_padding: Padding of the random crop.
        flip: Whether images are mirrored.
        seed: Seed of the teacher, of the prototypes and of the first trial.
        trials: Students trained by each method, from seeds `seed`, `seed + 1`, ...
        export_method: The method whose first student is exported.
        formats: Formats it is exported to.
    """

    data: ImageData
    pair: Pair
    methods: tuple
    teacher_schedule: Schedule
    student_schedule: Schedule
    teacher_file: str | None = None
    templates: int = 4096
    subclasses: int = 8
    components: int = 60
    crop_padding: int = 4
    flip: bool = True
    seed: int = 0
    trials: int = 1
    export_method: str = "letkd2"
    formats: tuple = ("savedmodel", "tflite")

    def config(self):
        """The experiment as a JSON-like dictionary."""
        return {
            "data": self.data.name,
            "split": self.data.split,
            "train_examples": len(self.data.x_train),
            "test_examples": len(self.data.x_test),
            "pair": self.pair.name,
            "methods": list(self.methods),
            "teacher_file": self.teacher_file and str(self.teacher_file),
            "teacher_schedule": None
            if self.teacher_file
            else schedule_config(self.teacher_schedule),
            "student_schedule": schedule_config(self.student_schedule),
            "templates": self.templates,
            "subclasses": self.subclasses,
            "components": self.components,
            "crop_padding": self.crop_padding,
            "flip": self.flip,
            "seed": self.seed,
            "trials": self.trials,
            "export_method": self.export_method,
            "formats": list(self.formats),
        }

    @property
    def augmentation(self):
        """Options of `training_batches`."""
        return {"crop_padding": self.crop_padding, "flip": self.flip}

    @property
    def needs_prototypes(self):
        """Whether any method is supervised by prototypes."""
        return any(methods.needs_prototypes(method) for method in self.methods)


def run(experiment, run_dir, verbose=2):
    """Run an experiment, or what is left of it, into a folder.

    Args:
        experiment: `Experiment`.
        run_dir: Run folder, new or an interrupted run's of the same configuration.
        verbose: Keras' verbosity of training.

    Returns:
        The report as a dictionary; it is also in `report.json` and `report.md`.

    Raises:
        ValueError: If the experiment or the folder does not fit; before any long work.
    """
    _check(experiment)
    folder = RunFolder(run_dir, experiment.config())
    handler = _log_to(folder / "log.txt")
    try:
        log.info("run folder %s", folder.path)
        with strategy().scope():
            teacher, teacher_result = _teacher(experiment, folder, verbose)
            prototypes = _prototypes(experiment, teacher, folder, verbose)
            results = {
                method: [
                    _student(experiment, method, trial, teacher, prototypes, folder, verbose)
                    for trial in range(experiment.trials)
                ]
                for method in experiment.methods
            }
        exported = _export(experiment, folder)
        return report.write(experiment, folder, teacher_result, results, exported)
    finally:
        log.removeHandler(handler)
        handler.close()


def strategy():
    """`MirroredStrategy` where there are several GPUs, TensorFlow's default elsewhere."""
    import tensorflow as tf

    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _check(experiment):
    """Errors that need no training to be seen."""
    for method in experiment.methods:
        methods.check(method)
    if experiment.trials < 1:
        raise ValueError(f"`trials` must be at least 1. Received: trials={experiment.trials}")
    teacher = _untrained_teacher(experiment)
    classes = teacher.output_shape[-1]
    if classes != experiment.data.num_classes:
        raise ValueError(
            f"`teacher` must have the {experiment.data.num_classes} classes of "
            f"{experiment.data.name}. Received: {classes}"
        )
    if experiment.needs_prototypes:
        height, width = teacher.get_layer("penultimate").output.shape[1:3]
        pool = _pool(teacher, _build(experiment.pair.student, experiment))
        points = len(experiment.data.x_train) * (height // pool) * (width // pool)
        if points < experiment.templates:
            raise ValueError(
                f"`templates` must be at most the {points} feature vectors of the training set. "
                f"Received: templates={experiment.templates}"
            )


def _untrained_teacher(experiment):
    if experiment.teacher_file is None:
        return _build(experiment.pair.teacher, experiment)
    return load_teacher(experiment.teacher_file)


def load_teacher(path):
    """A teacher from a `.keras` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If Keras cannot read it or it lacks the taps.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`teacher` must be a .keras file. Received: {str(path)!r}")
    teacher = keras.models.load_model(path, compile=False)
    names = {layer.name for layer in teacher.layers}
    for tap in ("intermediate", "penultimate"):
        if tap not in names:
            raise ValueError(
                f"`teacher` must have a layer named {tap!r}, as the networks of the zoo have. "
                f"Received: {str(path)!r}, a {teacher.name!r} without one"
            )
    return teacher


def _build(network, experiment):
    return models.build(
        network, num_classes=experiment.data.num_classes, input_shape=experiment.data.image_shape
    )


def _teacher(experiment, folder, verbose):
    if experiment.teacher_file is not None:
        teacher = load_teacher(experiment.teacher_file)
        return teacher, {"file": str(experiment.teacher_file), **_evaluate(teacher, experiment)}
    place = folder / "teacher"
    result = finished(place)
    if result is None:
        log.info("training the teacher %s", experiment.pair.teacher)
        keras.utils.set_random_seed(experiment.seed)
        teacher = _build(experiment.pair.teacher, experiment)
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
    log.info("teacher %s: %.2f%%", experiment.pair.teacher, result["accuracy_last"])
    return keras.models.load_model(place / "teacher.keras", compile=False), result


def _evaluate(teacher, experiment):
    teacher.compile(metrics=["accuracy"])
    data = experiment.data
    batches = evaluation_batches(data.x_test, data.y_test, 256, mean=data.mean, std=data.std)
    accuracy = 100 * teacher.evaluate(batches, return_dict=True, verbose=0)["accuracy"]
    return {"accuracy_last": accuracy, "parameters": teacher.count_params()}


def _pool(teacher, student):
    """Window by which the teacher's grid becomes the student's."""
    ours, theirs = (
        spatial_shape(model.get_layer("penultimate").output.shape) for model in (student, teacher)
    )
    if (
        any(t % o for t, o in zip(theirs, ours, strict=True))
        or len({t // o for t, o in zip(theirs, ours, strict=True)}) != 1
    ):
        raise ValueError(
            f"The teacher's grid {theirs[0]}x{theirs[1]} must be a multiple of the student's "
            f"{ours[0]}x{ours[1]}."
        )
    return theirs[0] // ours[0]


def _prototypes(experiment, teacher, folder, verbose):
    if not experiment.needs_prototypes:
        return None
    file = folder / "prototypes.npz"
    if file.exists():
        log.info("reusing %s", file.name)
        prototypes = Prototypes.load(file)
        prototypes.check_teacher(teacher)
        return prototypes
    log.info("fitting prototypes")
    data = experiment.data
    prototypes = fit_prototypes(
        teacher,
        evaluation_batches(data.x_train, data.y_train, 256, mean=data.mean, std=data.std),
        templates=experiment.templates,
        subclasses=experiment.subclasses,
        components=experiment.components,
        seed=experiment.seed,
        pool=_pool(teacher, _build(experiment.pair.student, experiment)),
        data_name=f"{data.name} ({data.split})",
        verbose=bool(verbose),
    )
    prototypes.save(file)
    return prototypes


def student_folder(folder, method, seed):
    """Where a student's training is."""
    return folder / method / f"seed{seed}"


def _student(experiment, method, trial, teacher, prototypes, folder, verbose):
    seed = experiment.seed + trial
    place = student_folder(folder, method, seed)
    result = finished(place)
    if result is None:
        log.info("training %s by %s, seed %d", experiment.pair.student, method, seed)
        # The same start for every method of a trial.
        keras.utils.set_random_seed(seed)
        plain = _build(experiment.pair.student, experiment)
        model = methods.build(method, plain, teacher, prototypes, experiment.pair)
        result = train(
            model,
            experiment.data,
            experiment.student_schedule,
            place,
            seed=seed,
            augmentation=experiment.augmentation,
            verbose=verbose,
        )
        student = getattr(model, "student", model)
        result["parameters"] = student.count_params()
        result["parameters_plain"] = plain.count_params()
        save_model(student, place / "student.keras")
        finish(place, result)
    log.info("%s, seed %d: %.2f%%", methods.title(method), seed, result["accuracy_last"])
    return result


def _export(experiment, folder):
    """The first student of the method to export in all formats, each verified."""
    if experiment.export_method not in experiment.methods:
        return {}
    place = student_folder(folder, experiment.export_method, experiment.seed)
    student = keras.models.load_model(place / "student.keras", compile=False)
    data = experiment.data
    images = next(
        iter(evaluation_batches(data.x_test, data.y_test, 64, mean=data.mean, std=data.std))
    )[0].numpy()
    exported = {}
    for kind in experiment.formats:
        log.info("exporting to %s", kind)
        exported[kind] = export_student(student, folder / "exported", format=kind, images=images)
    return exported


def _log_to(path):
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    return handler
