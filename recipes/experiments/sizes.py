"""Sizes of the networks of an experiment, and templates that keep the student small."""

import logging
import math
from dataclasses import asdict, dataclass, replace

import keras

from letkd_keras.functional import insert_kd_layers
from letkd_keras.functional.cost import known_cost_of, parameters_of
from letkd_keras.functional.graph import find_layer, flatten, output_of
from letkd_keras.layers import KDLayer
from letkd_keras.levels import LEVELS
from letkd_keras.recipes.experiments import methods

log = logging.getLogger(__name__)

# Fewer penultimate templates than this cannot describe the features of a data set.
_FEWEST_TEMPLATES = 8
# The growth of the measurements on the pages.
_USUAL_GROWTH = 0.25


@dataclass(frozen=True)
class Size:
    """Size of a network.

    Attributes:
        parameters: Number of values in its weights, without running statistics.
        bytes: Bytes of the parameters in float32.
        multiply_adds: Multiply-add operations for one image; `None` where they cannot be counted.
    """

    parameters: int
    bytes: int
    multiply_adds: int | None

    def __str__(self):
        text = f"{self.parameters:,} parameters, {self.bytes / 1e6:,.2f} MB in float32"
        if self.multiply_adds is None:
            return text
        return f"{text}, {self.multiply_adds / 1e6:,.2f} million multiply-adds"


def size_of(model):
    """The `Size` of a functional `keras.Model` of images of a known size."""
    cost = known_cost_of(model, pooled=True)
    return Size(cost.parameters, 4 * cost.parameters, cost.multiply_adds)


def measure(experiment, teacher, student):
    """Measure and log the sizes of the networks before a training.

    A student that is not smaller than its teacher is warned about.

    Args:
        experiment: `Experiment` whose layers are known.
        teacher: Teacher.
        student: Student without KD layers.

    Returns:
        Dictionary, JSON types, of `"teacher"`, `"student"` and, where a method leaves KD layers in
        the student, `"student_with_kd_layers"`: the fields of `Size` of each. The last one has the
        name of the largest of such methods, too.
    """
    measured = {"teacher": size_of(teacher), "student": size_of(student)}
    for role, size in measured.items():
        log.info("size of the %s %s: %s", role, getattr(experiment, role).label, size)
    sizes = {role: asdict(size) for role, size in measured.items()}
    method = _largest_method(experiment, student)
    if method is not None:
        layers = {
            level: KDLayer(experiment.templates_of(level), alpha=alpha, name=f"kd_{level}")
            for level, alpha in remaining_alphas(experiment, method).items()
        }
        names = {f"{level}_layer": experiment.student.layer(level) for level in layers}
        largest = size_of(insert_kd_layers(student, **layers, **names))
        log.info("size of the student with KD layers (%s): %s", method, largest)
        sizes["student_with_kd_layers"] = {"method": method, **asdict(largest)}
    else:
        largest = measured["student"]
    if largest.parameters >= measured["teacher"].parameters:
        log.warning(
            "The student %s%s has %s parameters and its teacher %s only %s: use %s.",
            experiment.student.label,
            " with KD layers" if method else "",
            f"{largest.parameters:,}",
            experiment.teacher.label,
            f"{measured['teacher'].parameters:,}",
            _remedies(experiment, measured),
        )
    return sizes


def _remedies(experiment, measured):
    """What makes a student smaller than its teacher, as a list in words."""
    student, teacher = measured["student"].parameters, measured["teacher"].parameters
    if student >= teacher:
        return "a smaller student"
    if experiment.growth is not None:
        return "a smaller student or a smaller --growth"
    if (1 + _USUAL_GROWTH) * student >= teacher:
        return "a smaller student or fewer --templates"
    return f"a smaller student, fewer --templates or --growth {_USUAL_GROWTH:.0%}"


def remaining_alphas(experiment, method):
    """Alphas of the KD layers that stay in the student that a method trains.

    Args:
        experiment: `Experiment`.
        method: Name of the method.

    Returns:
        The alphas by level. A layer with alpha 0 is not needed at inference and left out.
    """
    row, _ = methods.parse(method)
    alphas = {
        level: row.alpha(level, experiment)
        for level in LEVELS
        if level in {*row.levels, *row.layers}
    }
    return {level: alpha for level, alpha in alphas.items() if alpha > 0}


def within_budget(experiment, student):
    """The same experiment with as many templates as its budget allows.

    The KD layers may add at most `experiment.growth` of the student's parameters. The intermediate
    layer gets at most half of that, and at least one template for each class; the penultimate layer
    gets the rest. No layer gets more templates than the experiment has.

    The numbers are those for KD layers at both levels, whatever the methods are, so that methods
    can be added to a run. Only where the budget is too small for both levels, they are those for
    the levels of the methods.

    Args:
        experiment: `Experiment` whose layers and pool sizes are known.
        student: Student without KD layers.

    Returns:
        `Experiment` with other `templates` and `subclasses`; the same one without a budget, or if
        it is too small and no method leaves KD layers in the student.

    Raises:
        ValueError: If the budget is too small; the message has the smallest possible one.
    """
    if experiment.growth is None:
        return experiment
    needed = {level for name in experiment.methods for level in remaining_alphas(experiment, name)}
    if not needed:
        log.warning(
            "No method leaves KD layers in the student: --growth only limits the numbers of "
            "templates."
        )
    available = int(experiment.growth * size_of(student).parameters)
    costs = _costs_within(available, experiment, student, needed)
    if costs is None:
        return experiment
    fixed, of_template, of_subclass = costs
    available -= fixed
    subclasses, templates = experiment.subclasses, experiment.templates
    if of_subclass:
        rest = available - _fewest_templates(experiment) * of_template
        share = min(available // 2, rest) if of_template else available
        subclasses = min(subclasses, max(1, share // of_subclass))
        available -= subclasses * of_subclass
    if of_template:
        templates = min(templates, available // of_template)
    counts = [f"{templates} penultimate"] if of_template else []
    if of_subclass:
        counts.append(f"{subclasses * experiment.data.num_classes} intermediate")
    log.info("templates for a growth of %.1f%%: %s", 100 * experiment.growth, ", ".join(counts))
    return replace(experiment, templates=templates, subclasses=subclasses)


def _costs_within(available, experiment, student, needed):
    """The `_costs` of KD layers at both levels or, where these cost too much, at those needed.

    `None` where no level is needed and the budget is too small for any.
    """
    fewest = _fewest_templates(experiment)
    possible = {
        level for level in experiment.pool_sizes if getattr(experiment, f"{level}_alpha") > 0
    }
    for levels in (possible | needed, needed or possible - {"intermediate"}):
        fixed, of_template, of_subclass = _costs(experiment, student, levels)
        smallest = fixed + of_subclass + fewest * of_template
        if smallest <= available:
            return fixed, of_template, of_subclass
    if not needed:
        return None
    parts = []
    if of_subclass:
        parts.append("one intermediate template for each class")
    if of_template:
        parts.append(f"{fewest} penultimate templates")
    parameters = size_of(student).parameters
    percent = math.ceil(1000 * smallest / parameters) / 10
    raise ValueError(
        f"`growth` must be at least {percent}% for {' and '.join(parts)}, which add "
        f"{smallest:,} parameters to the {parameters:,} of {experiment.student.title}. "
        f"Received: growth={experiment.growth:g}"
    )


def _fewest_templates(experiment):
    """Number of penultimate templates that a budget must at least be enough for."""
    return min(_FEWEST_TEMPLATES, experiment.templates)


def _largest_method(experiment, student):
    """The method that leaves most parameters of KD layers in the student, or `None`."""

    def parameters(method):
        levels = remaining_alphas(experiment, method)
        fixed, of_template, of_subclass = _costs(experiment, student, levels)
        return fixed + of_template * experiment.templates + of_subclass * experiment.subclasses

    with_layers = [name for name in experiment.methods if remaining_alphas(experiment, name)]
    return max(with_layers, key=parameters, default=None)


def _costs(experiment, student, levels):
    """Parameters of KD layers: `(constant, of each template, of a sub-class of all classes)`."""
    costs = {level: _cost_of_layer(experiment, student, level) for level in levels}
    fixed = sum(constant for constant, _ in costs.values())
    _, of_template = costs.get("penultimate", (0, 0))
    _, of_intermediate_template = costs.get("intermediate", (0, 0))
    return fixed, of_template, experiment.data.num_classes * of_intermediate_template


def _cost_of_layer(experiment, student, level):
    """Parameters of a KD layer: `(constant, of each template)`."""
    flat = flatten(student)
    shape = output_of(flat, find_layer(flat, experiment.student.layer(level))).shape
    channels = shape[1 if keras.config.image_data_format() == "channels_first" else -1]

    def parameters(templates):
        layer = KDLayer(templates, data_format="channels_last")
        layer.build((None, 1, 1, channels))
        return parameters_of(layer)

    of_template = parameters(2) - parameters(1)
    return parameters(1) - of_template, of_template
