"""The table of methods: what trains a student, by name."""

import difflib
import re

from letkd_keras.data import steps_per_epoch
from letkd_keras.distillers import DKD, KD, LetKD


def _student(student, teacher, prototypes, experiment, taps):
    return student


def _kd(student, teacher, prototypes, experiment, taps):
    return KD(student, teacher)


def _dkd(student, teacher, prototypes, experiment, taps):
    schedule = experiment.student_schedule
    steps = steps_per_epoch(experiment.data.train_examples, schedule.batch_size)
    # Of the paper's 240 epochs the first 20.
    warm_up_steps = steps * schedule.epochs * 20 // 240
    return DKD(student, teacher, beta=_dkd_beta(experiment.pair), warm_up_steps=warm_up_steps)


def _dkd_beta(pair):
    """DKD's beta by the teacher, as its authors chose it."""
    if re.fullmatch(r"resnet(20|32|44|56|110)", pair.teacher):
        return 2.0
    return 6.0 if pair.teacher.startswith("wrn") and pair.student.startswith("wrn") else 8.0


def _quest(student, teacher, prototypes, experiment, taps):
    return LetKD(
        student,
        teacher,
        prototypes,
        penultimate=taps.student["penultimate"],
        intermediate=None,
        penultimate_alpha=0,
    )


def _letkd1(student, teacher, prototypes, experiment, taps):
    return LetKD(
        student,
        teacher,
        prototypes,
        penultimate=taps.student["penultimate"],
        intermediate=None,
        penultimate_alpha=experiment.pair.penultimate_alpha,
    )


def _letkd2(student, teacher, prototypes, experiment, taps):
    return LetKD(
        student,
        teacher,
        prototypes,
        **taps.student,
        penultimate_alpha=experiment.pair.penultimate_alpha,
        intermediate_alpha=experiment.pair.intermediate_alpha,
    )


# name: (what a table calls it, what builds it)
METHODS = {
    "student": ("student alone", _student),
    "kd": ("KD", _kd),
    "dkd": ("DKD", _dkd),
    "quest": ("QUEST (letKD-1, alpha 0)", _quest),
    "letkd1": ("letKD-1", _letkd1),
    "letkd2": ("letKD-2", _letkd2),
}


def check(name):
    """Refuse an unknown method.

    Raises:
        ValueError: Listing the methods there are.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(str(name), METHODS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}. Received: method={name}.{hint}"
        )


# name: levels at which the method is supervised by the teacher's prototypes
_LEVELS = {
    "quest": ("penultimate",),
    "letkd1": ("penultimate",),
    "letkd2": ("penultimate", "intermediate"),
}


def levels(names):
    """Levels at which any of the methods is supervised by prototypes, penultimate first."""
    return max((_LEVELS.get(name, ()) for name in names), key=len, default=())


def title(name):
    """What a table calls the method."""
    return METHODS[name][0]


def build(name, student, teacher, prototypes, experiment, taps):
    """The model to compile and fit. Its student, or itself if it has none, is what ships.

    Args:
        name: Name of the method.
        student: Student without KD layers.
        teacher: Trained teacher.
        prototypes: `Prototypes` of the teacher with the method's `levels`, or `None`.
        experiment: `Experiment`, for its pair and schedule.
        taps: `Taps` of both networks.
    """
    return METHODS[name][1](student, teacher, prototypes, experiment, taps)
