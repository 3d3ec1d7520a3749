"""The table of teacher-student pairs: a row each, nothing else tells them apart."""

import difflib
from dataclasses import dataclass, field

# Columns of the paper's tables of top-1 accuracy in percent (CIFAR-100: mean of five runs).
_CIFAR_METHODS = ("teacher", "student", "kd", "fitnet", "dkd", "simkd", "quest", "letkd1", "letkd2")


@dataclass(frozen=True)
class Pair:
    """A teacher, a student and what the paper does with them.

    Attributes:
        teacher: Teacher's name in the zoo.
        student: Student's name in the zoo.
        dataset: Name of the data set.
        learning_rate: Rate the student starts with.
        penultimate_alpha: How much of the penultimate KD layer's value is added.
        intermediate_alpha: Likewise at the intermediate level.
        published: Published top-1 accuracy in percent by method.
    """

    teacher: str
    student: str
    dataset: str
    learning_rate: float = 0.05
    penultimate_alpha: float = 1.0
    intermediate_alpha: float = 1.0
    published: dict = field(default_factory=dict)

    @property
    def name(self):
        """`teacher-student`."""
        return f"{self.teacher}-{self.student}"


def _cifar(teacher, student, accuracies, **options):
    published = dict(zip(_CIFAR_METHODS, accuracies, strict=True))
    published = {method: accuracy for method, accuracy in published.items() if accuracy}
    return Pair(teacher, student, "cifar100", published=published, **options)


# The rate starts at 0.01 where the student is a MobileNet or ShuffleNet, as in RepDistiller.
PAIRS = (
    _cifar("wrn40_2", "wrn16_2", (75.61, 73.26, 74.92, 73.58, 76.24, 76.06, 76.10, 76.29, 76.56)),
    _cifar("wrn40_2", "wrn40_1", (75.61, 71.98, 73.54, 72.24, 74.81, 74.92, 74.58, 75.01, 75.19)),
    _cifar("resnet56", "resnet20", (72.34, 69.06, 70.66, 69.21, 71.97, 68.95, 71.84, 72.44, 73.27)),
    _cifar("resnet110", "resnet20", (74.31, 69.06, 70.67, 68.99, None, 69.35, 71.89, 72.68, 73.38)),
    _cifar(
        "resnet110", "resnet32", (74.31, 71.14, 73.08, 71.06, 74.11, 72.15, 74.08, 74.40, 74.62)
    ),
    _cifar(
        "resnet32x4", "resnet8x4", (79.42, 72.50, 73.33, 73.50, 76.32, 78.08, 75.88, 76.70, 77.09)
    ),
    _cifar(
        "wrn40_2",
        "snv1",
        (75.61, 70.50, 74.83, 73.73, 76.70, 76.95, 76.75, 76.93, 77.08),
        learning_rate=0.01,
    ),
    _cifar(
        "resnet32x4",
        "snv1",
        (79.42, 70.50, 74.07, 73.59, 76.45, 77.18, 76.28, 76.65, 77.30),
        learning_rate=0.01,
    ),
    _cifar(
        "resnet32x4",
        "snv2",
        (79.42, 71.82, 74.45, 73.54, 77.07, 77.78, 77.09, 77.75, 77.95),
        learning_rate=0.01,
    ),
    _cifar(
        "resnet50",
        "mnv2",
        (79.34, 64.60, 67.35, 63.16, 70.35, 68.91, 69.81, 69.97, 70.39),
        learning_rate=0.01,
        penultimate_alpha=0.1,
        intermediate_alpha=0.2,
    ),
)


def names(dataset):
    """Names of the pairs of a data set, in the order of the table."""
    return [pair.name for pair in PAIRS if pair.dataset == dataset]


def find(name, dataset):
    """The row of a pair.

    Raises:
        ValueError: If there is none; those that exist are listed.
    """
    for pair in PAIRS:
        if (pair.name, pair.dataset) == (name, dataset):
            return pair
    close = difflib.get_close_matches(str(name), names(dataset), n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(
        f"`pair` must be one of {', '.join(names(dataset))}. Received: pair={name}.{hint}"
    )
