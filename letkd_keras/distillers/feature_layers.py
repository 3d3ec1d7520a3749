"""The layers that methods other than letKD compare where the caller names none."""

import logging

from letkd_keras.functional.layer_suggestions import suggest_layers, suggest_stage_ends

log = logging.getLogger(__name__)


def stage_ends(teacher, student, teacher_layers, student_layers, which):
    """Stage ends of both networks (`suggest_stage_ends`), where no layers are given.

    Args:
        teacher: Functional teacher, or `None` where both are given.
        student: Functional student.
        teacher_layers: Names of layers of the teacher, or `None` for its stage ends.
        student_layers: Likewise of the student.
        which: `"all"`, for as many as both networks have, counted from the last; `"second"`; or
            `"last"`.

    Returns:
        `(teacher_layers, student_layers)`, two tuples of names.

    Raises:
        ValueError: If what is given are no names of layers, or more than the method compares.
    """
    _check_names(teacher_layers, student_layers, one=which != "all")
    if teacher_layers is not None and student_layers is not None:
        return tuple(teacher_layers), tuple(student_layers)
    ends = [suggest_stage_ends(model) for model in (teacher, student)]
    if which == "all":
        count = min(len(names) for names in ends)
        chosen = [names[-count:] for names in ends]
    elif which == "second":
        chosen = [names[:2][-1:] for names in ends]
    else:
        chosen = [names[-1:] for names in ends]
    return _filled(chosen, teacher_layers, student_layers)


def penultimate_layers(teacher, student, teacher_layers, student_layers):
    """The last feature maps before the classifiers, where no layers are given.

    Args:
        teacher: Functional teacher, or `None` where both are given.
        student: Functional student.
        teacher_layers: Names of layers of the teacher, or `None`.
        student_layers: Likewise of the student.

    Returns:
        `(teacher_layers, student_layers)`, two tuples of names.

    Raises:
        ValueError: If what is given is not the name of one layer, in a tuple.
    """
    _check_names(teacher_layers, student_layers, one=True)
    if teacher_layers is not None and student_layers is not None:
        return tuple(teacher_layers), tuple(student_layers)
    chosen = [[suggest_layers(model)["penultimate"]] for model in (teacher, student)]
    return _filled(chosen, teacher_layers, student_layers)


def _check_names(teacher_layers, student_layers, one):
    for role, names in (("teacher", teacher_layers), ("student", student_layers)):
        if names is None:
            continue
        if isinstance(names, str) or (one and len(names) != 1):
            expected = "the name of one layer, in a tuple" if one else "a tuple of names of layers"
            raise ValueError(
                f"`{role}_layers` must be {expected}. Received: {role}_layers={names!r}"
            )


def _filled(chosen, teacher_layers, student_layers):
    layers = [
        tuple(suggested if given is None else given)
        for suggested, given in zip(chosen, (teacher_layers, student_layers), strict=True)
    ]
    log.info("Layers compared: teacher's %s, student's %s", *map(", ".join, layers))
    return layers
