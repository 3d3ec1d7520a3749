"""The options that help where the loss of a training diverges."""

from letkd_keras.recipes.experiments.options import ADAMW
from letkd_keras.recipes.trainings import gpus, sharing


def remedies(schedule, option=None, learning_rate=None):
    """What to do where the loss of a training diverges: options with values, as a sentence.

    Args:
        schedule: `Schedule` of the training.
        option: Option that sets its learning rate; `None` where none does.
        learning_rate: What the option stands at, if not at the learning rate of the schedule.

    Returns:
        The sentence, or `None` where no option helps.
    """
    found = []
    if option is not None:
        # What is typed is scaled again.
        rate = (learning_rate or schedule.learning_rate) / schedule.learning_rate_scale
        found.append(f"{option} {rate / 10:g} (a tenth)")
    if schedule.clip_norm is None and sharing.devices() == 1 >= gpus.used_together():
        found.append("--clip-norm 1")
    of_sgd = schedule.kd_learning_rate_factor != 1 or schedule.learning_rate_scale != 1
    if option is not None and schedule.optimizer == "sgd" and not of_sgd:
        found.append(f"--optimizer adamw {option} {ADAMW['learning_rate']}")
    if not found:
        return None
    return f"Give {', or '.join(found)}, with another --out."
