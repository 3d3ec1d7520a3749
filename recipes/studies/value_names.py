"""The settings of which `ablations` tries several values. Only the standard library is imported."""

import argparse
from dataclasses import dataclass

from letkd_keras import option_types, ranges


@dataclass(frozen=True)
class Value:
    """A setting whose values are compared.

    Attributes:
        name: Its name on the command line.
        parse: Function from a text to a value; refuses what is out of range.
        methods: Methods whose students depend on it.
        field: Its field of `Experiment`, with a dot for a field of a field.
        changes_prototypes: Whether the prototypes depend on it.
    """

    name: str
    parse: object
    methods: tuple = ("letkd2",)
    field: str = ""
    changes_prototypes: bool = False


_ONE = ("letkd1",)
_ROWS = (
    Value("templates", ranges.positive_integer, _ONE, "templates", True),
    Value("subclasses", ranges.positive_integer, field="subclasses", changes_prototypes=True),
    Value("components", ranges.positive_integer, field="components", changes_prototypes=True),
    Value("iterations", ranges.positive_integer, field="iterations", changes_prototypes=True),
    Value("temperature", ranges.positive_number, _ONE, "temperature"),
    Value("penultimate-alpha", ranges.non_negative_number, field="penultimate_alpha"),
    Value("intermediate-alpha", ranges.non_negative_number, field="intermediate_alpha"),
    Value("penultimate-weight", ranges.non_negative_number, field="penultimate_weight"),
    Value("intermediate-weight", ranges.non_negative_number, field="intermediate_weight"),
    Value("learning-rate", ranges.positive_number, field="student_schedule.learning_rate"),
    Value("template-scale", ranges.positive_number, field="initial_template_scale"),
    Value(
        "kd-learning-rate-factor",
        ranges.positive_number,
        field="student_schedule.kd_learning_rate_factor",
    ),
    Value("penultimate-layer", option_types.text, _ONE, "student.penultimate_layer", True),
    Value(
        "intermediate-layer",
        option_types.text,
        field="student.intermediate_layer",
        changes_prototypes=True,
    ),
)
VALUES = {value.name: value for value in _ROWS}


def parse_values(parser, name, texts):
    """The values of a setting; one that is out of range ends the command with one line."""
    try:
        return list(dict.fromkeys(VALUES[name].parse(text) for text in texts))
    except argparse.ArgumentTypeError as error:
        parser.error(f"--values {error}")
