"""The table of methods: what trains a student, by name."""

import difflib

from letkd_keras import KD, LetKD


def _student(student, teacher, prototypes, pair, taps):
    return student


def _kd(student, teacher, prototypes, pair, taps):
    return KD(student, teacher)


def _quest(student, teacher, prototypes, pair, taps):
    taps = {"penultimate": taps["penultimate"], "intermediate": None}
    return LetKD(student, teacher, prototypes, **taps, penultimate_alpha=0)


def _letkd1(student, teacher, prototypes, pair, taps):
    taps = {"penultimate": taps["penultimate"], "intermediate": None}
    alpha = pair.penultimate_alpha
    return LetKD(student, teacher, prototypes, **taps, penultimate_alpha=alpha)


def _letkd2(student, teacher, prototypes, pair, taps):
    return LetKD(
        student,
        teacher,
        prototypes,
        **taps,
        penultimate_alpha=pair.penultimate_alpha,
        intermediate_alpha=pair.intermediate_alpha,
    )


# name: (what a table calls it, what builds it)
METHODS = {
    "student": ("student alone", _student),
    "kd": ("KD", _kd),
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


def build(name, student, teacher, prototypes, pair, taps):
    """The model to compile and fit. Its student, or itself if it has none, is what ships.

    Args:
        name: Name of the method.
        student: Student without KD layers.
        teacher: Trained teacher.
        prototypes: `Prototypes` of the teacher with the method's `levels`, or `None`.
        pair: `Pair`, for its alphas.
        taps: The student's layers by level.
    """
    return METHODS[name][1](student, teacher, prototypes, pair, taps)
