"""Teacher, prototypes, students, export, report: the whole of the method in one run folder."""

import logging
import shutil
from dataclasses import dataclass, field

import keras

from letkd_keras import Prototypes, fit_prototypes
from letkd_keras.data import ImageData
from letkd_keras.export import export_student
from letkd_keras.recipes import methods, networks, report
from letkd_keras.recipes.networks import Network
from letkd_keras.recipes.pairs import Pair
from letkd_keras.recipes.run_folder import RunFolder, save_model
from letkd_keras.recipes.training import Schedule, finish, finished, schedule_config, train

log = logging.getLogger("letkd_keras")


@dataclass(frozen=True)
class Experiment:
    """Everything a run's results depend on.

    Attributes:
        data: The data set, `ImageData` or what has its methods.
        pair: Teacher and student.
        methods: Names of the methods to train the student by.
        teacher_schedule: How the teacher is trained, where no file is given.
        student_schedule: How every student is trained.
        teacher: The teacher's `Network`, trained if it is of the zoo; `None` for the pair's.
        student: The student's `Network`; `None` for the pair's.
        templates: Penultimate templates.
        subclasses: Sub-classes of each class at the intermediate level.
        components: LDA components.
        prototype_options: Further options of `PrototypeFit`. By default every feature vector takes
            part in the k-means, as in the paper, from a cache on disk.
        augmentation: Options of the data's `training_batches` that differ from its defaults.
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
    teacher: Network | None = None
    student: Network | None = None
    templates: int = 4096
    subclasses: int = 8
    components: int = 60
    prototype_options: dict = field(default_factory=lambda: {"cache": "float32"})
    augmentation: dict = field(default_factory=dict)
    seed: int = 0
    trials: int = 1
    export_method: str = "letkd2"
    formats: tuple = ("savedmodel", "tflite")

    def config(self):
        """The experiment as a JSON-like dictionary."""
        return {
            "data": self.data.name,
            "split": self.data.split,
            "train_examples": self.data.train_examples,
            "test_examples": self.data.test_examples,
            "pair": self.pair.name,
            "methods": list(self.methods),
            "teacher": self.teacher.config(),
            "student": self.student.config(),
            "teacher_schedule": None
            if self.teacher.is_file
            else schedule_config(self.teacher_schedule),
            "student_schedule": schedule_config(self.student_schedule),
            "templates": self.templates,
            "subclasses": self.subclasses,
            "components": self.components,
            "prototype_options": dict(self.prototype_options),
            "augmentation": dict(self.augmentation),
            "seed": self.seed,
            "trials": self.trials,
            "export_method": self.export_method,
            "formats": list(self.formats),
        }

    def __post_init__(self):
        for role in ("teacher", "student"):
            if getattr(self, role) is None:
                object.__setattr__(self, role, Network(getattr(self.pair, role)))

    @property
    def levels(self):
        """Levels at which any method is supervised by prototypes."""
        return methods.levels(self.methods)


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
    taps = _check(experiment)
    folder = RunFolder(run_dir, experiment.config())
    handler = _log_to(folder / "log.txt")
    try:
        log.info("run folder %s", folder.path)
        with strategy().scope():
            teacher, teacher_result = _teacher(experiment, folder, verbose)
            prototypes = _prototypes(experiment, taps, teacher, folder, verbose)
            results = {
                method: [
                    _student(experiment, taps, method, trial, teacher, prototypes, folder, verbose)
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
    """Errors that need no training to be seen, and the taps."""
    for method in experiment.methods:
        methods.check(method)
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
    if not experiment.levels:
        return Taps({}, {}, {})
    teacher_taps = experiment.teacher.taps(teacher, "teacher")
    student_taps = experiment.student.taps(student, "student")
    for level in experiment.levels:
        for argument, taps in (("teacher", teacher_taps), ("student", student_taps)):
            if taps[level] is None:
                raise ValueError(
                    f"No {level} tap can be proposed for the {argument}: name one of its layers, "
                    "or distil by letkd1, which needs none."
                )
    pools = networks.pools(teacher, teacher_taps, student, student_taps, experiment.levels)
    height, width = networks.grid(teacher, teacher_taps["penultimate"])
    pool = pools["penultimate"]
    points = examples * (height // pool) * (width // pool)
    if points < experiment.templates:
        raise ValueError(
            f"`templates` must be at most the {points} feature vectors of the training set. "
            f"Received: templates={experiment.templates}"
        )
    return Taps(teacher_taps, student_taps, pools)


def _teacher(experiment, folder, verbose):
    network = experiment.teacher
    if network.is_file:
        teacher = network.build(experiment.data, "teacher")
        result = {"file": network.name, **_evaluate(teacher, experiment)}
    else:
        teacher, result = _trained_teacher(experiment, folder / "teacher", verbose)
    log.info("teacher %s: %.2f%%", network.title, result["accuracy_last"])
    if result["accuracy_last"] < 200 / experiment.data.num_classes:
        log.warning(
            "The teacher is hardly better than chance on the test images. Does it take them as "
            "this recipe normalises them?"
        )
    return teacher, result


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


def _prototypes(experiment, taps, teacher, folder, verbose):
    levels = experiment.levels
    if not levels:
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
        data.evaluation_batches(256, "train"),
        templates=experiment.templates,
        subclasses=experiment.subclasses,
        components=experiment.components,
        seed=experiment.seed,
        penultimate=taps.teacher["penultimate"],
        intermediate=taps.teacher["intermediate"] if "intermediate" in levels else None,
        pool=tuple(taps.pools[level] for level in levels),
        data_name=f"{data.name} ({data.split})",
        workdir=folder / "prototypes.work",
        **experiment.prototype_options,
        verbose=bool(verbose),
    )
    prototypes.save(file)
    shutil.rmtree(folder / "prototypes.work")
    return prototypes


def student_folder(folder, method, seed):
    """Where a student's training is."""
    return folder / method / f"seed{seed}"


def _student(experiment, taps, method, trial, teacher, prototypes, folder, verbose):
    seed = experiment.seed + trial
    place = student_folder(folder, method, seed)
    result = finished(place)
    if result is None:
        log.info("training %s by %s, seed %d", experiment.student.title, method, seed)
        # The same start for every method of a trial.
        keras.utils.set_random_seed(seed)
        plain = experiment.student.build(experiment.data, "student")
        model = methods.build(method, plain, teacher, prototypes, experiment.pair, taps.student)
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
    images = next(iter(experiment.data.evaluation_batches(64)))[0].numpy()
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
