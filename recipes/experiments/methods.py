"""The table of methods: how a student is trained, by name.

A name is a method of the table, or one with losses on the logits added: `letkd2+dkd`,
`fitnet+kd`, `letkd1+kd-ls`. The losses are those of `letkd_keras.losses.LOGIT_LOSSES`; each is also
a method of its own.

Weights of the losses are those of the methods' papers or, where these differ, of RepDistiller, with
which the letKD paper compares.

Features are compared at the layers that RepDistiller uses (the distillers' defaults): the ends of
all stages for AT and VID, of the second stage for FitNet, of the last one for SP and SimKD. CRD
compares the penultimate layers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from letkd_keras.distillers import (
    AT,
    CRD,
    SP,
    VID,
    Distiller,
    FitNet,
    HintedLetKD,
    LetKD,
    SimKD,
)
from letkd_keras.errors import did_you_mean
from letkd_keras.functional import insert_kd_layers
from letkd_keras.layers import KDLayer
from letkd_keras.levels import LEVELS
from letkd_keras.losses import LOGIT_LOSSES

_PENULTIMATE, _INTERMEDIATE = ("penultimate",), ("intermediate",)


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Attributes:
        title: Name of the method in tables of results.
        distiller: Class of its distiller, perhaps with options by `functools.partial`; `None` where
            the student is trained alone. It is called with teacher, student and `task_weight`. With
            losses on the logits it also gets `logit_losses` and `warm_up_steps`. With `levels` the
            prototypes follow the student, and it also gets options of `LetKD`.
        levels: Levels at which prototypes supervise it.
        layers: Levels whose layer of the student it needs. It may have a KD layer there without
            supervision.
        alphas: Alphas, by level, that are fixed by the method; the others are the experiment's.
        needs_rows: Whether batches come with the numbers of their images in the training set, and
            the distiller gets the labels of the training set after the student. The training set
            must then be in memory.
        task_weight: Weight of the cross-entropy.
        logit_losses: Names of its losses on the logits, rows of `LOGIT_LOSSES`.
        prepare: Function of the student and the `Experiment` that returns the student that the
            distiller gets; `None`: the student.
    """

    title: str
    distiller: Callable | None
    levels: tuple = ()
    layers: tuple = ()
    alphas: dict = field(default_factory=dict)
    needs_rows: bool = False
    task_weight: float = 1.0
    logit_losses: tuple = ()
    prepare: Callable | None = None

    @property
    def distiller_class(self):
        """The class of its distiller, which may have options by `functools.partial`."""
        return getattr(self.distiller, "func", self.distiller)

    @property
    def kd_layers(self):
        """What becomes of the KD layers, in a few words."""
        levels = {*self.levels, *self.layers}
        if not levels:
            return "none"
        removable = all(self.alphas.get(level) == 0 for level in levels)
        return "not needed at inference" if removable else "stay in the student"

    def alpha(self, level, experiment):
        """Alpha of the KD layer at a level: the method's if it is fixed, else the experiment's."""
        return self.alphas.get(level, getattr(experiment, f"{level}_alpha"))


def _with_unsupervised_layer(student, experiment):
    """The student with a KD layer at its penultimate layer that nothing supervises."""
    layer = KDLayer(
        experiment.templates,
        alpha=experiment.penultimate_alpha,
        initial_template_scale=experiment.initial_template_scale,
        name="kd_penultimate",
    )
    name = experiment.student.penultimate_layer
    return insert_kd_layers(student, penultimate=layer, penultimate_layer=name)


def _of_loss(name):
    """The method that consists of a loss on the logits."""
    loss = LOGIT_LOSSES[name]
    return Method(loss.title, Distiller, task_weight=loss.task_weight, logit_losses=(name,))


METHODS = {
    "student": Method("student alone", None),
    **{name: _of_loss(name) for name in LOGIT_LOSSES},
    "fitnet": Method("FitNet", FitNet),
    # The hint is FitNet's own, at the ends of the second stages (supplement, Table 6).
    "fitnet_layer": Method(
        "FitNet + KD layer", FitNet, layers=_PENULTIMATE, prepare=_with_unsupervised_layer
    ),
    "fitnet_letkd": Method("FitNet + KD layer, supervised", HintedLetKD, _PENULTIMATE),
    "at": Method("AT", AT),
    "sp": Method("SP", SP),
    "vid": Method("VID", VID),
    "crd": Method("CRD", CRD, needs_rows=True),
    "simkd": Method("SimKD", SimKD, task_weight=0.0),
    "quest": Method("QUEST (letKD-1, alpha 0)", LetKD, _PENULTIMATE, alphas={"penultimate": 0}),
    "letkd1": Method("letKD-1", LetKD, _PENULTIMATE),
    "letkd2": Method("letKD-2", LetKD, LEVELS),
    # The other settings of the ablation of the alphas (supplement, Table 5).
    "letkd_i0": Method(
        "intermediate level only, alpha 0", LetKD, _INTERMEDIATE, alphas={"intermediate": 0}
    ),
    "letkd_i1": Method("intermediate level only", LetKD, _INTERMEDIATE),
    "letkd_i0p0": Method(
        "letKD-2, both alphas 0", LetKD, LEVELS, alphas={"intermediate": 0, "penultimate": 0}
    ),
    "letkd_i0p1": Method(
        "letKD-2, intermediate alpha 0", LetKD, LEVELS, alphas={"intermediate": 0}
    ),
    "letkd_i1p0": Method("letKD-2, penultimate alpha 0", LetKD, LEVELS, alphas={"penultimate": 0}),
}


# Folders of a run that are no method's.
_OTHER_FOLDERS = ("teacher", "exported", "prototypes.work")


def names():
    """Names of all methods, in the order of the table; losses that were added later come last."""
    return list(dict.fromkeys([*METHODS, *LOGIT_LOSSES]))


def parse(name):
    """Resolve the name of a method.

    Args:
        name: Name of a row, perhaps with `+LOSS`, once for each loss on the logits.

    Returns:
        `(method, added)`: the row, and the names of the losses added to it.

    Raises:
        ValueError: If a part of the name is unknown or cannot be the name of a folder, or the loss
            cannot be added.
    """
    base, *added = str(name).split("+")
    if base not in names():
        raise ValueError(
            f"`methods` must be of {', '.join(names())}, perhaps with +LOSS. "
            f"Received: {name}{did_you_mean(base, names())}"
        )
    if not re.fullmatch(r"\w[\w.-]*", base):
        raise ValueError(
            "The name of a method is that of a folder: it must have letters, digits, '_', '-' and "
            f"'.' only. Received: {name}"
        )
    if base in _OTHER_FOLDERS:
        raise ValueError(
            "The name of a method is that of a folder: it must be none of "
            f"{', '.join(_OTHER_FOLDERS)}, which a run has, too. Received: {name}"
        )
    method = METHODS[base] if base in METHODS else _of_loss(base)
    for loss in added:
        if loss not in LOGIT_LOSSES:
            raise ValueError(
                f"A loss added to a method must be one of {', '.join(LOGIT_LOSSES)}. "
                f"Received: {name}{did_you_mean(loss, LOGIT_LOSSES)}"
            )
    losses = [*method.logit_losses, *added]
    if len(losses) > len(set(losses)):
        raise ValueError(f"A loss can be added to a method only once. Received: {name}")
    if added and method.distiller is None:
        raise ValueError(
            f"A loss is added to a method with a teacher; alone it is a method of its own: "
            f"{added[0]}. Received: {name}"
        )
    if added and "logit_losses" in getattr(method.distiller, "keywords", {}):
        raise ValueError(
            "A loss cannot be added to a method whose distiller has `logit_losses` of its own: "
            f"make a row of LOGIT_LOSSES of them. Received: {name}"
        )
    return method, tuple(added)


def is_known(name):
    """Whether a name is that of a method, perhaps with `+LOSS`."""
    try:
        parse(name)
    except ValueError:
        return False
    return True


def only_labels_train_classifier(name):
    """Whether images without a label teach the student's classifier nothing.

    Args:
        name: Name of a method, perhaps with `+LOSS`.

    Returns:
        Boolean. False with a loss on the logits, for SimKD, whose student has the teacher's
        classifier, and for the student alone, which does not see these images.
    """
    method, added = parse(name)
    return not (method.logit_losses or added or method.distiller_class in (None, SimKD))


def levels_of(names):
    """Levels that prototypes are fitted for: all at which one of the methods is supervised.

    With the intermediate level it is both, since no prototypes have the intermediate level only.
    """
    needed = {level for name in names for level in parse(name)[0].levels}
    return LEVELS if "intermediate" in needed else tuple(needed)


def layers_of(names):
    """Levels whose layers one of the methods needs, in the teacher or in the student."""
    needed = {level for name in names for level in parse(name)[0].layers}
    return tuple(level for level in LEVELS if level in needed or level in levels_of(names))


def without_intermediate_level(name):
    """The method that takes the place of another where there is no intermediate layer.

    Returns:
        Name of the method: letKD-1 for letKD-2, with the same losses added; the same name for
        methods without the level.

    Raises:
        ValueError: If the method is about the intermediate level.
    """
    method, _ = parse(name)
    if "intermediate" not in {*method.levels, *method.layers}:
        return name
    base, plus, added = name.partition("+")
    if base != "letkd2":
        raise ValueError(
            f"{name} needs an intermediate layer, which cannot be suggested for both: name "
            "layers of the networks, or train by letkd1, which needs none."
        )
    return f"letkd1{plus}{added}"


def title(name):
    """The name of a method in tables of results."""
    method, added = parse(name)
    return " + ".join([method.title, *(LOGIT_LOSSES[loss].title for loss in added)])


def position(name):
    """A key that sorts names of methods in the order of the table; unknown names come last."""
    base, *added = name.split("+")
    order = names()
    return (order.index(base) if base in order else len(order), len(added), name)
