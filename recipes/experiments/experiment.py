"""An experiment: everything that its results depend on."""

import json
from dataclasses import dataclass, field
from functools import cached_property

from letkd_keras.data import DataSpec
from letkd_keras.recipes.experiments import methods, published
from letkd_keras.recipes.experiments.networks import Network
from letkd_keras.recipes.trainings.schedule import Schedule
from letkd_keras.recipes.trainings.training_data import few_for_students

# What may differ between two starts in the same folder: no finished training depends on it.
OPEN_KEYS = (
    *("methods", "trials", "export_method", "formats", "sizes", "imports"),
    # It changes memory, not results.
    "block_size",
    # Where things are; their digest and fingerprint are compared.
    *("data.source", "data.data_dir", "data.image_cache", "data.labels", "data.unlabelled"),
    *("teacher.file", "student.file"),
    # Their names. What a pair stands for is compared: networks, learning rates and alphas.
    *("data.name", "pair"),
)

_SCHEDULES = (
    *("teacher_schedule", "head_schedule", "fine_tune_schedule"),
    *("student_schedule", "quantization_aware_schedule"),
)
_PUBLISHED_CLASSES = {"cifar100": 100, "tiny_imagenet": 200, "imagenet": 1000}


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
        teacher_schedule: `Schedule` of a teacher with fresh weights. `from_config` gives any other
            teacher `None`.
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
        memory: Bytes of feature vectors in memory during the fit of the prototypes; `None` for the
            default of `fit_prototypes`.
        feature_cache: Type of the cache of feature vectors on disk, or `None`.
        logit_losses: What differs from the table of losses (`logit_loss_settings.of_pair`).
        seed: Seed of the teacher, of the prototypes and of the first trial.
        trials: Students of each method, with seeds `seed`, `seed + 1`, ...
        export_method: Method whose first student is exported, or `None`.
        formats: Formats that it is exported to.
        callbacks: Names of Keras callbacks of every training, `MODULE:CLASS`.
        imports: Names of the user's modules that were imported.
        class_weights: `"balanced"` for weights of the training images by class, or `None`.
        growth: Share of the student's parameters that its KD layers may add, or `None`. `prepare`
            then lowers `templates` and `subclasses`.
        pool_sizes: By level for which prototypes can be fitted, the window that turns the teacher's
            grid into the student's; known after `prepare`.
        sizes: Sizes of the networks (`sizes.measure`); known after `prepare`.
        typed: Options that were given, of `OF_TEACHER`, `OF_PROTOTYPES` and `OF_KD_LAYERS`.
            `prepare` warns about those that have no effect. They are not in `config`.
    """

    spec: DataSpec
    data: object
    pair: str
    methods: tuple
    teacher: Network
    student: Network
    teacher_schedule: Schedule | None
    student_schedule: Schedule
    student_examples: int | None
    head_schedule: Schedule | None
    fine_tune_schedule: Schedule | None
    quantization_aware_schedule: Schedule | None
    augmentation: dict
    penultimate_alpha: float
    intermediate_alpha: float
    penultimate_weight: float
    intermediate_weight: float
    initial_template_scale: float
    temperature: float
    block_size: int | None
    templates: int
    subclasses: int
    components: int
    iterations: int
    memory: int | None
    feature_cache: str | None
    logit_losses: dict
    seed: int
    trials: int
    export_method: str | None
    formats: tuple
    callbacks: tuple
    imports: tuple
    class_weights: str | None
    growth: float | None
    pool_sizes: dict = field(default_factory=dict)
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
    def open_keys(self):
        """`OPEN_KEYS`, and the titles of networks from files, whose fingerprints are compared."""
        from_files = [role for role in ("teacher", "student") if getattr(self, role).file]
        return (*OPEN_KEYS, *(f"{role}.title" for role in from_files))

    @property
    def levels(self):
        """Levels that the methods need prototypes for."""
        return methods.levels_of(self.methods)

    def templates_of(self, level):
        """Number of templates of a level: sub-classes of all classes at the intermediate one."""
        if level == "penultimate":
            return self.templates
        return self.subclasses * self.data.num_classes

    def published(self, method):
        """The published `Accuracy` of a method or of `"teacher"` on this pair and data, or `None`.

        Numbers of the paper mean nothing for a part of the classes.
        """
        if self.data.num_classes != _PUBLISHED_CLASSES.get(self.spec.dataset):
            return None
        return published.published(self.spec.dataset, self.pair, method)

    def config(self):
        """The experiment as a dictionary of JSON types, for `config.json`."""
        names = [name for name in self.__dataclass_fields__ if name not in ("spec", "typed")]
        # A teacher's schedule that is not used would be a setting without a meaning.
        schedules = {
            **self.teacher_phases,
            "student_schedule": self.student_schedule,
            "quantization_aware_schedule": self.quantization_aware_schedule,
        }
        config = {
            **{name: getattr(self, name) for name in names},
            "data": {
                **self.spec.config(),
                "name": self.data.name,
                "split": self.data.split,
                "digest": self.data.digest,
                "mean": list(map(float, self.data.mean)),
                "std": list(map(float, self.data.std)),
            },
            "teacher": vars(self.teacher),
            "student": vars(self.student),
            **{name: (used := schedules.get(name)) and used.config() for name in _SCHEDULES},
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

        Raises:
            ValueError: If the images have changed since.
        """
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        spec = DataSpec.from_config(config["data"])
        data = spec.open()
        if data.digest != config["data"]["digest"]:
            raise ValueError(f"The images of {data.name} have changed since the run was started.")
        schedules = {
            name: config[name] and Schedule.from_config(config[name]) for name in _SCHEDULES
        }
        fields |= {
            "spec": spec,
            "data": data,
            "methods": tuple(config["methods"]),
            "formats": tuple(config["formats"]),
            "callbacks": tuple(config["callbacks"]),
            # A folder from before there was the option can still be explained and exported.
            "imports": tuple(config.get("imports", ())),
            "teacher": Network(**config["teacher"]),
            "student": Network(**config["student"]),
            **schedules,
        }
        return cls(**{**fields, **changes})
