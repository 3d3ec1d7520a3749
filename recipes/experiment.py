"""Teacher, prototypes, students, export, report: the whole of the method in one run folder."""

import logging
from dataclasses import dataclass, field

from letkd_keras.data import ImageData
from letkd_keras.recipes import exporting, methods, report, stages
from letkd_keras.recipes.networks import Network
from letkd_keras.recipes.pairs import Pair
from letkd_keras.recipes.run_folder import RunFolder
from letkd_keras.recipes.training import Schedule, schedule_config

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
        prototype_options: Further options of `fit_prototypes`. By default every feature vector
            takes part in the k-means, as in the paper, from a cache on disk.
        temperature: Sharpness T of the penultimate targets.
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
    prototype_options: dict = field(default_factory=lambda: {"feature_cache": "float32"})
    temperature: float = 1.0
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
            "temperature": self.temperature,
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
    def seeds(self):
        """Seeds of the trials."""
        return range(self.seed, self.seed + self.trials)

    @property
    def levels(self):
        """Levels that the methods need prototypes for."""
        return methods.levels(self.methods)


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
    taps = stages.check(experiment)
    folder = RunFolder(run_dir, experiment.config())
    with stages.logged_to(folder / "log.txt"):
        log.info("run folder %s", folder.path)
        with stages.devices():
            teacher, teacher_result = stages.teacher(experiment, folder, verbose)
            prototypes = stages.prototypes(experiment, taps, teacher, folder, verbose)
            results = {
                method: [
                    stages.student(
                        experiment, taps, method, seed, teacher, prototypes, folder, verbose
                    )
                    for seed in experiment.seeds
                ]
                for method in experiment.methods
            }
        exported = exporting.export(experiment, folder)
        costs = exporting.costs(experiment, folder)
        return report.write(experiment, folder, teacher_result, results, exported, costs)
