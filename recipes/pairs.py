"""The table of teacher-student pairs: a row each, nothing else tells them apart."""

import difflib
from dataclasses import dataclass, field, replace

from letkd_keras import models

# Columns of the paper's tables of accuracy in percent (CIFAR-100: mean of five runs).
_CIFAR_METHODS = ("teacher", "student", "kd", "fitnet", "dkd", "simkd", "quest", "letkd1", "letkd2")
_IMAGENET_METHODS = ("teacher", "student", "kd", "dkd", "quest", "letkd1", "letkd2")


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
        published_top5: Published top-5 accuracy in percent by method.
        published_ablation: Published top-1 accuracy of the methods of the supplement's ablations.
        note: What a reader of the published numbers must know.
    """

    teacher: str
    student: str
    dataset: str
    learning_rate: float = 0.05
    penultimate_alpha: float = 1.0
    intermediate_alpha: float = 1.0
    published: dict = field(default_factory=dict)
    published_top5: dict = field(default_factory=dict)
    published_ablation: dict = field(default_factory=dict)
    note: str = ""

    @property
    def name(self):
        """`teacher-student`."""
        return f"{self.teacher}-{self.student}"

    def unpublished(self):
        """The same on other data than the paper's, where its numbers mean nothing."""
        return replace(self, published={}, published_top5={}, published_ablation={})


def _cifar(teacher, student, accuracies, **options):
    published = dict(zip(_CIFAR_METHODS, accuracies, strict=True))
    published = {method: accuracy for method, accuracy in published.items() if accuracy}
    return Pair(teacher, student, "cifar100", published=published, **options)


def _tiny_imagenet(teacher, student, letkd1, letkd2, **options):
    published = {"letkd1": letkd1, "letkd2": letkd2}
    return Pair(teacher, student, "tiny_imagenet", published=published, **options)


def _imagenet(teacher, student, top1=(), top5=(), **options):
    return Pair(
        f"imagenet_{teacher}",
        f"imagenet_{student}",
        "imagenet",
        learning_rate=0.1,
        published=dict(zip(_IMAGENET_METHODS, top1, strict=bool(top1))),
        published_top5=dict(zip(_IMAGENET_METHODS, top5, strict=bool(top5))),
        **options,
    )


# The rate starts at 0.01 where the student is a MobileNet or ShuffleNet, as in RepDistiller.
PAIRS = (
    _cifar("wrn40_2", "wrn16_2", (75.61, 73.26, 74.92, 73.58, 76.24, 76.06, 76.10, 76.29, 76.56)),
    _cifar("wrn40_2", "wrn40_1", (75.61, 71.98, 73.54, 72.24, 74.81, 74.92, 74.58, 75.01, 75.19)),
    _cifar(
        "resnet56",
        "resnet20",
        (72.34, 69.06, 70.66, 69.21, 71.97, 68.95, 71.84, 72.44, 73.27),
        published_ablation={
            "letkd_i0": 70.64,
            "letkd_i1": 70.80,
            "letkd_i0p0": 71.70,
            "letkd_i0p1": 72.13,
            "letkd_i1p0": 72.78,
        },
    ),
    _cifar("resnet110", "resnet20", (74.31, 69.06, 70.67, 68.99, None, 69.35, 71.89, 72.68, 73.38)),
    _cifar(
        "resnet110",
        "resnet32",
        (74.31, 71.14, 73.08, 71.06, 74.11, 72.15, 74.08, 74.40, 74.62),
        # The supplement's own FitNet, beside these, is at 71.59.
        published_ablation={"fitnet_layer": 71.80, "fitnet_letkd": 73.36},
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
    _tiny_imagenet("wrn40_2", "wrn16_2", 61.42, 62.21),
    _tiny_imagenet("wrn40_2", "wrn40_1", 59.75, 60.59),
    _tiny_imagenet("resnet56", "resnet20", 55.54, 57.35),
    _tiny_imagenet("wrn40_2", "snv1", 65.70, 66.15, learning_rate=0.01),
    _tiny_imagenet("resnet50", "mnv2", 60.69, 61.15, learning_rate=0.01, penultimate_alpha=0.5),
    _imagenet(
        "resnet34",
        "resnet18",
        (73.31, 69.75, 70.66, 71.70, 71.67, 72.33, 72.38),
        (91.42, 89.07, 89.88, 90.41, 90.67, 91.06, 91.15),
    ),
    _imagenet(
        "resnet50",
        "mobilenet_v1",
        (76.13, 68.87, 68.58, 72.05, 72.54, 73.78, 73.98),
        (92.86, 88.76, 88.98, 91.05, 91.13, 91.81, 92.00),
        note="called RN50-MNV2 in the paper; the student of its program is MobileNetV1",
    ),
    _imagenet("resnet50", "mobilenet_v2", note="not in the paper, whose RN50-MNV2 is V1"),
)


def datasets():
    """Names of the data sets that have pairs, in the order of the table."""
    return list(dict.fromkeys(pair.dataset for pair in PAIRS))


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


def find_or_make(name, dataset):
    """The row of a pair; of any two networks of the zoo, `TEACHER-STUDENT`, if there is none.

    Raises:
        ValueError: If the name is neither.
    """
    networks = str(name).split("-")
    if name not in names(dataset) and len(networks) == 2 and set(networks) <= set(models.names()):
        teacher, student = networks
        slim = student in ("snv1", "snv2", "mnv2")
        return Pair(teacher, student, dataset, learning_rate=0.01 if slim else 0.05)
    return find(name, dataset)
