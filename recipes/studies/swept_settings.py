"""The settings of which `ablations` tries several values. Only the standard library is imported."""

import argparse
from dataclasses import dataclass

from letkd_keras.commands.option_types import text
from letkd_keras.ranges import non_negative_number, positive_integer, positive_number


@dataclass(frozen=True)
class SweptSetting:
    """A setting whose values are compared.

    Attributes:
        name: Its name on the command line.
        parse: Function from a text to a value; refuses what is out of range.
        methods: Methods whose students depend on it.
        changes_prototypes: Whether the prototypes depend on it.
        other_field: Its field of `Experiment` where that has another name; with a dot, a field of
            a field.
    """

    name: str
    parse: object
    methods: tuple = ("letkd2",)
    changes_prototypes: bool = False
    other_field: str | None = None

    @property
    def field(self):
        """Its field of `Experiment`."""
        return self.other_field or self.name.replace("-", "_")


_LETKD1 = ("letkd1",)
_ROWS = (
    SweptSetting("templates", positive_integer, _LETKD1, changes_prototypes=True),
    SweptSetting("subclasses", positive_integer, changes_prototypes=True),
    SweptSetting("components", positive_integer, changes_prototypes=True),
    SweptSetting("iterations", positive_integer, changes_prototypes=True),
    SweptSetting("temperature", positive_number, _LETKD1),
    SweptSetting("penultimate-alpha", non_negative_number),
    SweptSetting("intermediate-alpha", non_negative_number),
    SweptSetting("penultimate-weight", non_negative_number),
    SweptSetting("intermediate-weight", non_negative_number),
    SweptSetting("learning-rate", positive_number, other_field="student_schedule.learning_rate"),
    SweptSetting("template-scale", positive_number, other_field="initial_template_scale"),
    SweptSetting(
        "kd-learning-rate-factor",
        positive_number,
        other_field="student_schedule.kd_learning_rate_factor",
    ),
    SweptSetting(
        "student-penultimate-layer",
        text,
        _LETKD1,
        changes_prototypes=True,
        other_field="student.penultimate_layer",
    ),
    SweptSetting(
        "student-intermediate-layer",
        text,
        changes_prototypes=True,
        other_field="student.intermediate_layer",
    ),
)
SWEPT_SETTINGS = {setting.name: setting for setting in _ROWS}


def parse_values(parser, name, texts):
    """The values of a setting; one that is out of range ends the command with one line."""
    try:
        return list(dict.fromkeys(SWEPT_SETTINGS[name].parse(given) for given in texts))
    except argparse.ArgumentTypeError as error:
        parser.error(f"--values {error}")
