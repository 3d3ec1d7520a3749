"""The settings of an experiment as plain values: pairs of networks, and how a data set is trained.

Every recipe has one `Settings`, which states what depends on the data set on one page.
"""

from dataclasses import dataclass, field

from letkd_keras import models
from letkd_keras.errors import did_you_mean


@dataclass(frozen=True)
class Pair:
    """A teacher, a student, and the settings that the paper chose for them.

    Attributes:
        teacher: Name of the teacher in the zoo.
        student: Name of the student in the zoo.
        learning_rate: Learning rate of the student's first epochs.
        penultimate_alpha: Alpha of the penultimate KD layer.
        intermediate_alpha: Alpha of the intermediate KD layer.
        dkd_beta: Beta of DKD; `None` for that of the data set's `logit_losses`, or to choose it by
            the networks (`logit_loss_settings.dkd_beta`).
        note: What a reader of the published numbers must know.
    """

    teacher: str
    student: str
    learning_rate: float = 0.05
    penultimate_alpha: float = 1.0
    intermediate_alpha: float = 1.0
    dkd_beta: float | None = None
    note: str = ""

    @property
    def name(self):
        """`teacher-student`."""
        return f"{self.teacher}-{self.student}"


@dataclass(frozen=True)
class Settings:
    """How teachers and students are trained on a data set.

    Attributes:
        dataset: Name of the data set in the tables of published accuracies.
        pairs: `Pair`s of the paper; the first one with the name `pair` is the default.
        pair: Name of the default pair, or `None`: teacher and student must be given.
        num_classes: Classes of the data set, for the list of pairs; `None` if that is open.
        image_size: Height and width of its images; `None` if that is open.
        pixels: Default of `--pixels`; `None`: mean and standard deviation of the data set.
        epochs: Epochs of a student.
        teacher_epochs: Epochs of a teacher; `None`: as many as the student's.
        batch_size: Images in a step, over all devices.
        optimizer: `"sgd"` or `"adamw"`.
        schedule: `"steps"` or `"cosine"`, see `schedule.Schedule`.
        learning_rate: Learning rate of the first epochs with SGD; a pair can have another one for
            its student.
        learning_rates: The same of students that are in no pair of the table, by name.
        milestones: Epochs after which the learning rate is divided by 10.
        milestones_of: Epochs of the schedule that `milestones` belong to; `None`: `epochs`. A
            schedule of other epochs has them scaled.
        weight_decay: Weight decay of SGD, see `schedule.Schedule`.
        augmentation: Options of the data's `training_batches`.
        templates: Number of templates of the penultimate KD layer.
        subclasses: Number of sub-classes of each class.
        components: Number of LDA components.
        iterations: Iterations of k-means.
        logit_losses: What differs from `letkd_keras.losses.LOGIT_LOSSES`, by name of the loss:
            `options` of the loss, `weight`, `task_weight`, `warm_up_epochs` (whatever the number of
            epochs is).
    """

    dataset: str
    pairs: tuple = ()
    pair: str | None = None
    num_classes: int | None = None
    image_size: int | None = None
    pixels: str | None = None
    epochs: int = 240
    teacher_epochs: int | None = None
    batch_size: int = 64
    optimizer: str = "sgd"
    schedule: str = "steps"
    learning_rate: float = 0.05
    learning_rates: dict = field(default_factory=dict)
    milestones: tuple = (150, 180, 210)
    milestones_of: int | None = None
    weight_decay: float = 5e-4
    augmentation: dict = field(default_factory=dict)
    templates: int = 4096
    subclasses: int = 8
    components: int = 60
    iterations: int = 20
    logit_losses: dict = field(default_factory=dict)

    def find_pair(self, name):
        """The pair of a name: of the table, or any two networks of the zoo.

        A pair that is not in the table has the learning rate of `learning_rate_of`, and alphas of
        1.

        Args:
            name: `TEACHER-STUDENT`.

        Returns:
            `Pair`.

        Raises:
            ValueError: If the name is neither; the message lists the pairs of the table.
        """
        for pair in self.pairs:
            if pair.name == name:
                return pair
        names = str(name).split("-")
        if len(names) == 2 and set(names) <= set(models.names()):
            teacher, student = names
            return Pair(teacher, student, learning_rate=self.learning_rate_of(student))
        table = [pair.name for pair in self.pairs]
        raise ValueError(
            f"`pair` must be {'one of ' + ', '.join(table) + ', or ' if table else ''}two networks "
            f"of the zoo as TEACHER-STUDENT. Received: pair={name}{did_you_mean(name, table)}"
        )

    def learning_rate_of(self, student):
        """The rate that the table or `learning_rates` has for a student, else `learning_rate`."""
        rates = {pair.student: pair.learning_rate for pair in self.pairs}
        return {**rates, **self.learning_rates}.get(student, self.learning_rate)
