"""The layers that methods other than letKD compare."""

import logging

from letkd_keras.functional.layer_suggestions import suggest_layers, suggest_stage_ends

log = logging.getLogger(__name__)


def compared_layers(teacher, student, teacher_layers, student_layers, which):
    """The layers that a method compares: those given, else suggested ones.

    Args:
        teacher: Functional teacher, or `None` where `teacher_layers` are given.
        student: Functional student, likewise.
        teacher_layers: Names of layers of the teacher, or one name; `None` for the suggested ones.
        student_layers: Likewise of the student.
        which: What is suggested: `"all"`, the ends of all stages, as many as the other network has,
            counted from the last; `"second"` or `"last"`, the end of that stage; `"penultimate"`,
            the last feature map before the classifier.

    Returns:
        `(teacher_layers, student_layers)`, two tuples of names.

    Raises:
        ValueError: If more layers are given than the method compares, or a network whose layers are
            not given has no feature map before its classifier.
    """
    given = {"teacher": teacher_layers, "student": student_layers}
    for role, names in given.items():
        if names is not None and which != "all" and len(layer_names(names)) != 1:
            raise ValueError(
                f"`{role}_layers` must be the name of one layer. Received: {role}_layers={names!r}"
            )
    layers = [
        _suggested(model, role, which) if names is None else layer_names(names)
        for model, (role, names) in zip((teacher, student), given.items(), strict=True)
    ]
    if None in given.values():
        count = min(map(len, layers))
        layers = [
            own[-count:] if names is None else own
            for own, names in zip(layers, given.values(), strict=True)
        ]
        log.info("Layers compared: teacher's %s, student's %s", *map(", ".join, layers))
    return tuple(layers)


def layer_names(layers):
    """Names of layers as a tuple; a name alone is one layer."""
    return (layers,) if isinstance(layers, str) else tuple(layers)


def _suggested(model, role, which):
    if which == "penultimate":
        return (suggest_layers(model, role)["penultimate"],)
    ends = tuple(suggest_stage_ends(model, role))
    return {"all": ends, "second": ends[:2][-1:], "last": ends[-1:]}[which]
