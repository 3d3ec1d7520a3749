"""An experiment: everything that its results depend on, and the checks before it runs."""

import json
import logging
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from letkd_keras.data import DataSpec
from letkd_keras.data.keras_cv_policies import mixes_labels
from letkd_keras.functional import suggest_stage_ends
from letkd_keras.recipes.experiments import methods, published, sizes
from letkd_keras.recipes.experiments.model_of_method import Inputs, build
from letkd_keras.recipes.experiments.networks import Network, grid, pool_size
from letkd_keras.recipes.trainings import workers
from letkd_keras.recipes.trainings.schedule import Schedule
from letkd_keras.recipes.trainings.training_data import (
    balanced_class_weights,
    few_for_students,
    labelled_data,
)

log = logging.getLogger("letkd_keras")

# What may differ between two starts in the same folder: no finished training depends on it.
OPEN_KEYS = (
    *("methods", "trials", "export_method", "formats", "sizes"),
    # It changes memory, not results.
    "block_size",
    # Where things are; their digest and fingerprint are compared.
    *("data.source", "data.data_dir", "data.image_cache", "data.labels", "data.unlabelled"),
    *("teacher.file", "student.file"),
)


@dataclass(frozen=True)
class Experiment:
    """Everything that the results of a run depend on.

    Attributes:
        spec: `DataSpec` of the data.
        data: The data, opened.
        pair: `teacher-student`, the name under which accuracies are published.
        methods: Names of the methods that students are trained by.
        teacher: `Network` of the teacher.
        student: `Network` of the student.
        teacher_schedule: `Schedule` of the teacher, if it is trained.
        student_schedule: `Schedule` of every student.
        student_examples: Number of the training images that students are trained on; `None` for
            all. The teacher and its prototypes have all.
        head_schedule: `Schedule` of a new head of the teacher, on frozen features.
        fine_tune_schedule: `Schedule` of fine-tuning the teacher, or `None` for none.
        quantization_aware_schedule: `Schedule` by which every student is trained further under fake
            quantization, or `None` for none.
        augmentation: Options of the data's `training_batches`.
        penultimate_alpha: Alpha of the penultimate KD layer.
        intermediate_alpha: Alpha of the intermediate KD layer.
        penultimate_weight: Weight of the penultimate KL divergence.
        intermediate_weight: Weight of the intermediate KL divergence.
        initial_template_scale: Initial scale of the scores of the KD layers.
        temperature: Temperature of the penultimate targets.
        block_size: Images of the blocks that KD layers and their losses compute in, or `None`.
        templates: Templates of the penultimate KD layer.
        subclasses: Sub-classes of each class.
        components: LDA components.
        iterations: Iterations of k-means.
        memory: Bytes of feature vectors in memory during the fit of the prototypes.
        feature_cache: Type of the cache of feature vectors on disk, or `None`.
        logit_losses: What differs from the table of losses (`logit_loss_settings.of_pair`).
        seed: Seed of the teacher, of the prototypes and of the first trial.
        trials: Students of each method, with seeds `seed`, `seed + 1`, ...
        export_method: Method whose first student is exported, or `None`.
        formats: Formats that it is exported to.
        pool_sizes: By level, the window that turns the teacher's grid into the student's; known
            after `prepare`.
        callbacks: Names of Keras callbacks of every training, `MODULE:CLASS`.
        class_weights: `"balanced"` for weights of the training images by class, or `None`.
        growth: Share of the student's parameters that its KD layers may add, or `None`. `prepare`
            then lowers `templates` and `subclasses`.
        sizes: Sizes of the networks (`sizes.measure`); known after `prepare`.
        typed: Options of the teacher's training that were given, by the names of `OF_TEACHER`.
            `prepare` warns about those that have no effect. They are not in `config`.
    """

    spec: DataSpec
    data: object
    pair: str
    methods: tuple
    teacher: Network
    student: Network
    teacher_schedule: Schedule
    student_schedule: Schedule
    student_examples: int | None = None
    head_schedule: Schedule | None = None
    fine_tune_schedule: Schedule | None = None
    quantization_aware_schedule: Schedule | None = None
    augmentation: dict = field(default_factory=dict)
    penultimate_alpha: float = 1.0
    intermediate_alpha: float = 1.0
    penultimate_weight: float = 1.0
    intermediate_weight: float = 1.0
    initial_template_scale: float = 3.0
    temperature: float = 1.0
    block_size: int | None = None
    templates: int = 4096
    subclasses: int = 8
    components: int = 60
    iterations: int = 20
    memory: int = 2**28
    feature_cache: str | None = "float32"
    logit_losses: dict = field(default_factory=dict)
    seed: int = 0
    trials: int = 1
    export_method: str | None = None
    formats: tuple = ()
    pool_sizes: dict = field(default_factory=dict)
    callbacks: tuple = ()
    class_weights: str | None = None
    growth: float | None = None
    sizes: dict = field(default_factory=dict)
    typed: tuple = ()

    @property
    def seeds(self):
        """Seeds of the trials."""
        return range(self.seed, self.seed + self.trials)

    @cached_property
    def student_data(self):
        """The data that students are trained on.

        Few images are repeated until an epoch has as many steps as with all.

        Raises:
            ValueError: If `student_examples` does not fit the data.
        """
        return few_for_students(self.data, self.student_examples, self.spec.seed)

    @property
    def _teacher_schedules(self):
        names = ("teacher_schedule", "head_schedule", "fine_tune_schedule")
        return {name: getattr(self, name) for name in names}

    @property
    def teacher_phases(self):
        """The schedules by which the teacher is trained, in order, by name of the field.

        A teacher with fresh weights is trained as a whole. One with a new head has the head trained
        on frozen features, and can then be fine-tuned. One that is trained can be fine-tuned.
        """
        if self.teacher.trained == "nothing" or (
            self.teacher.trained is None and self.teacher.file is None
        ):
            names = ["teacher_schedule"]
        else:
            names = ["head_schedule"] if self.teacher.trained == "backbone" else []
            names += [] if self.fine_tune_schedule is None else ["fine_tune_schedule"]
        return {name: getattr(self, name) for name in names}

    @property
    def levels(self):
        """Levels that the methods need prototypes for."""
        return methods.levels_of(self.methods)

    def published(self, method):
        """The published `Accuracy` of a method or of `"teacher"` on this pair and data, or `None`.

        Numbers of the paper mean nothing for a part of the classes.
        """
        names = (self.spec.dataset, self.data.name)
        dataset = next((name for name in names if name in published.DATASETS), None)
        if dataset is None or self.spec.classes is not None:
            return None
        if self.data.num_classes != _PUBLISHED_CLASSES[dataset]:
            return None
        return published.published(dataset, self.pair, method)

    def config(self):
        """The experiment as a dictionary of JSON types, for `config.json`."""
        names = [name for name in self.__dataclass_fields__ if name not in ("spec", "typed")]
        config = {name: getattr(self, name) for name in names}
        if self.student_examples is None:
            del config["student_examples"]
        config |= {
            "data": {
                **self.spec.config(),
                "name": self.data.name,
                "split": self.data.split,
                "digest": self.data.digest,
                "mean": _floats(self.data.mean),
                "std": _floats(self.data.std),
            },
            "teacher": vars(self.teacher),
            "student": vars(self.student),
            **{
                name: schedule.config() if name in self.teacher_phases else None
                for name, schedule in self._teacher_schedules.items()
            },
            "student_schedule": self.student_schedule.config(),
            "quantization_aware_schedule": self.quantization_aware_schedule
            and self.quantization_aware_schedule.config(),
        }
        return json.loads(json.dumps(config))

    @classmethod
    def from_config(cls, config, **changes):
        """The experiment of a `config.json`, with its data opened.

        Args:
            config: What `config` returned.
            **changes: Fields with other values.

        Returns:
            `Experiment`.
        """
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        spec = DataSpec.from_config(config["data"])
        student_schedule = Schedule.from_config(config["student_schedule"])
        schedules = {
            name: Schedule.from_config(config[name]) if config.get(name) else None
            for name in (
                *("teacher_schedule", "head_schedule", "fine_tune_schedule"),
                "quantization_aware_schedule",
            )
        }
        fields |= {
            "spec": spec,
            "data": spec.open(),
            "methods": tuple(config["methods"]),
            "formats": tuple(config["formats"]),
            "callbacks": tuple(config.get("callbacks", ())),
            "teacher": Network(**config["teacher"]),
            "student": Network(**config["student"]),
            "student_schedule": student_schedule,
            **schedules,
            "teacher_schedule": schedules["teacher_schedule"] or student_schedule,
        }
        return cls(**{**fields, **changes})


_PUBLISHED_CLASSES = {"cifar100": 100, "tiny_imagenet": 200, "imagenet": 1000}


def _floats(values):
    return [float(value) for value in values]


def prepare(experiment):
    """Check an experiment, and resolve layers and fingerprints, before any training.

    Where a network has no intermediate layer, letKD-1 takes the place of letKD-2.

    Args:
        experiment: `Experiment`.

    Returns:
        `Experiment` with the layers of both networks, their fingerprints, sizes and pool sizes, and
        as many templates as its budget allows.

    Raises:
        ValueError: If something does not fit.
        FileNotFoundError: If the file of a network does not exist.
    """
    methods.check(experiment.methods, experiment.data)
    if experiment.quantization_aware_schedule is not None:
        methods.check_quantization_aware(experiment.methods)
    _check_batch_sizes(experiment)
    if experiment.student_examples is not None:
        _ = experiment.student_data
    if getattr(experiment.data, "unlabelled_examples", 0):
        _check_unlabelled(experiment)
    if experiment.class_weights is not None:
        balanced_class_weights(experiment.data)
    opened = {
        role: getattr(experiment, role).open(experiment.data, role)
        for role in ("teacher", "student")
    }
    teacher, student = (network.model for network in opened.values())
    networks = {
        role: replace(getattr(experiment, role), trained=network.trained)
        for role, network in opened.items()
    }
    experiment = replace(experiment, **networks)
    _warn_about_options(experiment)
    if methods.need_stage_ends(experiment.methods):
        for model in (teacher, student):
            suggest_stage_ends(model)
    needed = methods.layers_of(experiment.methods)
    experiment = replace(
        experiment,
        teacher=experiment.teacher.with_layers(teacher, "teacher", bool(needed)),
        student=experiment.student.with_layers(student, "student", bool(needed)),
    )
    if needed:
        experiment = _with_possible_methods(experiment)
        for role, network, model in (
            ("teacher", experiment.teacher, teacher),
            ("student", experiment.student, student),
        ):
            log.info("layers of the %s %s: %s", role, network.label, network.describe(model))
    pool_sizes = {}
    for level in ("penultimate", "intermediate"):
        layers = experiment.teacher.layer(level), experiment.student.layer(level)
        if None not in layers:
            try:
                pool_sizes[level] = pool_size(teacher, layers[0], student, layers[1], level)
            except ValueError:
                if level in experiment.levels:
                    raise
    experiment = sizes.within_budget(experiment, student)
    if experiment.levels:
        _check_templates(experiment, teacher, pool_sizes["penultimate"])
    if "intermediate" in experiment.levels:
        _check_subclasses(experiment, teacher, pool_sizes["intermediate"])
    _check_methods(experiment, teacher, student)
    measured = sizes.measure(experiment, teacher, student)
    return replace(experiment, pool_sizes=pool_sizes, sizes=measured)


def _check_batch_sizes(experiment):
    labelled = labelled_data(experiment.data).train_examples
    teacher_schedules = experiment.teacher_phases.values()
    checked = [(schedule, labelled) for schedule in teacher_schedules]
    for schedule, examples in (
        *checked,
        (experiment.student_schedule, experiment.data.train_examples),
    ):
        if schedule.batch_size > examples:
            what = "training images"
            if examples < experiment.data.train_examples:
                what += " with a label, which train the teacher"
            raise ValueError(
                f"`batch_size` must be at most the {examples} {what}. "
                f"Received: batch_size={schedule.batch_size}"
            )
        if schedule.batch_size % workers.devices():
            raise ValueError(
                f"`batch_size` must be a multiple of the {workers.devices()} devices of all "
                f"workers. Received: batch_size={schedule.batch_size}"
            )
        if schedule.clip_norm is not None and workers.current() is not None:
            raise ValueError(
                "`clip_norm` cannot be used by several workers, each of which would clip its own "
                f"part of the gradient. Received: clip_norm={schedule.clip_norm}"
            )


def _warn_about_options(experiment):
    """Warn about options of the teacher's training that have no effect on this teacher."""
    phases = experiment.teacher_phases
    if "teacher_schedule" in phases:
        why = dict.fromkeys(("head_epochs", "fine_tune_epochs"), "has no trained weights")
    else:
        why = {"teacher_epochs": "is trained already"}
        if "fine_tune_schedule" not in phases:
            why["teacher_learning_rate"] = "is trained already"
        if "head_schedule" not in phases:
            why["head_epochs"] = "needs no new head"
    for name in experiment.typed:
        if name in why:
            option, teacher = f"--{name.replace('_', '-')}", experiment.teacher.label
            log.warning("%s has no effect: the teacher %s %s.", option, teacher, why[name])


def _check_unlabelled(experiment):
    if experiment.class_weights is not None:
        raise ValueError(
            "`class_weights` need labels of all training images. Received: "
            f"class_weights={experiment.class_weights} with "
            f"{experiment.data.unlabelled_examples} images without a label"
        )
    if mixes_labels(experiment.augmentation):
        raise ValueError(
            "`augment` must not mix labels where training images have none. "
            f"Received: augment={' '.join(experiment.augmentation['policies'])}"
        )


def _with_possible_methods(experiment):
    """The same experiment with letKD-1 for letKD-2 where an intermediate layer is missing."""
    missing = [
        network.title
        for network in (experiment.teacher, experiment.student)
        if network.intermediate_layer is None
    ]
    if not missing:
        return experiment
    names = tuple(
        dict.fromkeys(methods.without_intermediate_level(name) for name in experiment.methods)
    )
    if names == experiment.methods:
        return experiment
    log.warning(
        "%s has no intermediate layer that could be suggested, so letkd1 is used in place of "
        "letkd2.",
        " and ".join(dict.fromkeys(missing)),
    )
    export_method = experiment.export_method
    if export_method is not None:
        export_method = methods.without_intermediate_level(export_method)
    return replace(experiment, methods=names, export_method=export_method)


def _check_methods(experiment, teacher, student):
    """Refuse methods that do not fit the networks, by building those that need no prototypes."""
    own = replace(experiment, data=experiment.student_data)
    for name in experiment.methods:
        if methods.parse(name)[0].levels:
            continue  # their layers are checked
        try:
            build(name, Inputs(teacher, student, None, own))
        except ValueError as error:
            raise ValueError(f"{name} does not fit these networks: {error}") from error


def _check_templates(experiment, teacher, window):
    height, width = grid(teacher, experiment.teacher.penultimate_layer)
    points = experiment.data.train_examples * (height // window) * (width // window)
    if points < experiment.templates:
        raise ValueError(
            f"`templates` must be at most the {points} feature vectors of the training set. "
            f"Received: templates={experiment.templates}"
        )


def _check_subclasses(experiment, teacher, window):
    if not hasattr(experiment.data, "y_train"):
        return  # images on disk; the fit of the prototypes counts them
    height, width = grid(teacher, experiment.teacher.intermediate_layer)
    labels = labelled_data(experiment.data).y_train
    images = np.bincount(labels, minlength=experiment.data.num_classes).min()
    points = int(images) * (height // window) * (width // window)
    if points < experiment.subclasses:
        raise ValueError(
            f"`subclasses` must be at most the {points} feature vectors of the smallest class. "
            f"Received: subclasses={experiment.subclasses}"
        )
