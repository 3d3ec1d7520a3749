"""The table of methods: what trains a student, by name."""

import difflib

from letkd_keras import KD, LetKD


def _student(student, teacher, prototypes, pair):
    return student


def _kd(student, teacher, prototypes, pair):
    return KD(student, teacher)


def _quest(student, teacher, prototypes, pair):
    return LetKD(student, teacher, prototypes, intermediate=None, penultimate_alpha=0)


def _letkd1(student, teacher, prototypes, pair):
    return LetKD(
        student,
        teacher,
        prototypes,
        intermediate=None,
        penultimate_alpha=pair.penultimate_alpha,
    )


def _letkd2(student, teacher, prototypes, pair):
    return LetKD(
        student,
        teacher,
        prototypes,
        penultimate_alpha=pair.penultimate_alpha,
        intermediate_alpha=pair.intermediate_alpha,
    )


# name: (what a table calls it, what builds it from student, teacher, prototypes and pair)
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


def needs_prototypes(name):
    """Whether the method is supervised by the teacher's prototypes."""
    return name in ("quest", "letkd1", "letkd2")


def title(name):
    """What a table calls the method."""
    return METHODS[name][0]


def build(name, student, teacher, prototypes, pair):
    """The model to compile and fit. Its student, or itself if it has none, is what ships."""
    return METHODS[name][1](student, teacher, prototypes, pair)
