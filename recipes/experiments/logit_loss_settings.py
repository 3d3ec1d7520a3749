"""Settings and weights of the losses on the logits, by experiment and method.

A loss on the logits alone has its paper's weight and its paper's weight of the cross-entropy
(`LogitLossRow.task_weight`; KD: 0.9 and 0.1). Added to another method, it leaves that method's
cross-entropy as it is, with weight 1, and has its paper's weight. KD has weight 1 there, as in
RepDistiller (`-r 1 -a 1`).
"""

import re

from letkd_keras.data import steps_per_epoch
from letkd_keras.losses import LOGIT_LOSSES, logit_loss

# RepDistiller's weight of KD beside the loss of another method.
_ADDED_WEIGHTS = {"kd": 1.0}


def dkd_beta(teacher, student):
    """DKD's beta by the networks, as its authors chose it on CIFAR-100."""
    if re.fullmatch(r"resnet(8|14|20|32|44|56|110)", teacher):
        return 2.0
    return 6.0 if teacher.startswith("wrn") and student.startswith("wrn") else 8.0


def of_pair(settings, pair):
    """What an experiment's losses on the logits have different from `LOGIT_LOSSES`.

    Args:
        settings: `Settings` of the data set.
        pair: `Pair`, for DKD's beta: its own, else that of the settings, else `dkd_beta`.

    Returns:
        Dictionary, by name of the loss, of `options`, `weight`, `task_weight` and `warm_up_epochs`,
        all optional.
    """
    result = {name: dict(row) for name, row in settings.logit_losses.items()}
    beta = pair.dkd_beta
    if beta is None:
        of_settings = result.get("dkd", {}).get("options", {})
        beta = of_settings.get("beta", dkd_beta(pair.teacher, pair.student))
    for name in ("dkd", "dkd-ls"):
        row = result.setdefault(name, {})
        row["options"] = {**row.get("options", {}), "beta": beta}
    return result


def added_weight(loss):
    """Weight of a loss on the logits that is added to a method."""
    return _ADDED_WEIGHTS.get(loss, LOGIT_LOSSES[loss].weight)


def distiller_options(method, added, experiment):
    """The options of a method's distiller for its losses on the logits.

    Args:
        method: `Method`.
        added: Names of the losses added to it.
        experiment: `Experiment`.

    Returns:
        Dictionary of `logit_losses`, `warm_up_steps` and, where the experiment has another one,
        `task_weight`; empty without such losses.
    """
    losses, warm_up_epochs, options = {}, 0.0, {}
    schedule = experiment.student_schedule
    for name in (*method.logit_losses, *added):
        row, own = LOGIT_LOSSES[name], experiment.logit_losses.get(name, {})
        weight = own.get("weight", row.weight)
        if name in added:
            weight = added_weight(name)
        elif "task_weight" in own:
            options["task_weight"] = own["task_weight"]
        losses[name.replace("-", "_")] = (logit_loss(name, **own.get("options", {})), weight)
        epochs = own.get("warm_up_epochs", row.warm_up_fraction * schedule.epochs)
        warm_up_epochs = max(warm_up_epochs, epochs)
    if losses:
        steps = steps_per_epoch(experiment.data.train_examples, schedule.batch_size)
        options |= {"logit_losses": losses, "warm_up_steps": int(warm_up_epochs * steps)}
    return options
