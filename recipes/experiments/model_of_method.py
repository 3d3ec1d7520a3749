"""From the name of a method to the model that trains a student by it."""

from letkd_keras.distillers import LetKD
from letkd_keras.recipes.experiments import logit_loss_settings
from letkd_keras.recipes.experiments.methods import parse


def build(name, teacher, student, prototypes, experiment):
    """The model of a method, to be compiled and fitted.

    Its `student`, or the model itself if it has none, is the network to keep.

    Args:
        name: Name of the method.
        teacher: Trained teacher.
        student: Student without KD layers.
        prototypes: `Prototypes` of the teacher with the method's levels, or `None`.
        experiment: `Experiment`, for its settings and data.

    Returns:
        A `keras.Model`.
    """
    method, added = parse(name)
    if method.distiller is None:
        return student
    if method.prepare is not None:
        student = method.prepare(student, experiment)
    positional, options = [], {"task_weight": method.task_weight}
    if method.needs_rows:
        positional.append(experiment.data.y_train)
    if method.levels:
        positional.append(prototypes)
        options |= _letkd_options(method, experiment)
    options |= logit_loss_settings.distiller_options(method, added, experiment)
    return method.distiller(teacher, student, *positional, **options)


def _letkd_options(method, experiment):
    options = {
        "initial_template_scale": experiment.initial_template_scale,
        "temperature": experiment.temperature,
        "block_size": experiment.block_size,
    }
    if method.distiller_class is LetKD:
        options["levels"] = method.levels
    for level in method.levels:
        options[f"{level}_alpha"] = method.alpha(level, experiment)
        options[f"{level}_weight"] = getattr(experiment, f"{level}_weight")
        options[f"{level}_layer"] = getattr(experiment.student, f"{level}_layer")
    return options
