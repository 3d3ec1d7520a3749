"""The table of methods: what trains a student, by name.

Weights are those of the methods' papers or, where these differ, of RepDistiller, whose numbers the
letKD paper compares with. They use the ends of the stages (`suggest_stage_ends`): all for AT and
VID, the second for FitNet, the last for SP, CRD and SimKD, as RepDistiller does.
"""

import difflib
import re
from dataclasses import dataclass

from letkd_keras.data import ImageData, steps_per_epoch
from letkd_keras.distillers import AT, CRD, DKD, KD, SP, VID, FitNet, HintedLetKD, LetKD, SimKD
from letkd_keras.functional.insertion import insert_kd_layers
from letkd_keras.layers import KDLayer
from letkd_keras.losses import KDLoss


@dataclass(frozen=True)
class Setting:
    """What a method is built from.

    Attributes:
        student: Student without KD layers.
        teacher: Trained teacher.
        prototypes: `Prototypes` of the teacher with the method's levels, or `None`.
        experiment: `Experiment`, for its pair, data and schedule.
        taps: `Taps` of both networks.
    """

    student: object
    teacher: object
    prototypes: object
    experiment: object
    taps: object


def _kd(setting):
    return KD(setting.teacher, setting.student)


def _fitnet(setting, **options):
    return FitNet(setting.teacher, setting.student, **options)


def _fitnet_layer(setting, **options):
    """FitNet on a student whose penultimate KD layer nothing supervises (Table 6)."""
    layer = KDLayer(
        setting.experiment.templates,
        alpha=setting.experiment.pair.penultimate_alpha,
        name="kd_penultimate",
    )
    student = insert_kd_layers(
        setting.student, layer, penultimate_layer=setting.taps.student["penultimate"]
    )
    return FitNet(setting.teacher, student, **options)


def _fitnet_letkd(setting, **options):
    return HintedLetKD(
        setting.teacher,
        setting.student,
        setting.prototypes,
        penultimate_layer=setting.taps.student["penultimate"],
        penultimate_alpha=setting.experiment.pair.penultimate_alpha,
        temperature=setting.experiment.temperature,
        **options,
    )


def _at(setting, **options):
    return AT(setting.teacher, setting.student, **options)


def _sp(setting, **options):
    return SP(setting.teacher, setting.student, **options)


def _vid(setting, **options):
    return VID(setting.teacher, setting.student, **options)


def _crd(setting, **options):
    labels = setting.experiment.data.y_train
    return CRD(setting.teacher, setting.student, labels, **options)


def _simkd(setting, **options):
    return SimKD(setting.teacher, setting.student, **options)


def _dkd(setting, **options):
    schedule = setting.experiment.student_schedule
    steps = steps_per_epoch(setting.experiment.data.train_examples, schedule.batch_size)
    return DKD(
        setting.teacher,
        setting.student,
        beta=_dkd_beta(setting.experiment.pair),
        # Of the paper's 240 epochs the first 20.
        warm_up_steps=steps * schedule.epochs * 20 // 240,
        **options,
    )


def _dkd_beta(pair):
    """DKD's beta by the teacher, as its authors chose it."""
    if re.fullmatch(r"resnet(20|32|44|56|110)", pair.teacher):
        return 2.0
    return 6.0 if pair.teacher.startswith("wrn") and pair.student.startswith("wrn") else 8.0


def _letkd(penultimate, intermediate):
    """A method of KD layers, from the alpha of each level: a number, "pair" or `None` for none."""

    def build(setting, **options):
        alphas = {"penultimate": penultimate, "intermediate": intermediate}
        options["levels"] = [level for level, alpha in alphas.items() if alpha is not None]
        for level in options["levels"]:
            alpha = alphas[level]
            options[f"{level}_layer"] = setting.taps.student[level]
            own = getattr(setting.experiment.pair, f"{level}_alpha")
            options[f"{level}_alpha"] = own if alpha == "pair" else alpha
        temperature = setting.experiment.temperature
        return LetKD(
            setting.teacher,
            setting.student,
            setting.prototypes,
            temperature=temperature,
            **options,
        )

    return build


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        title: What a table of results calls it.
        build: From a `Setting`, and options of `Distiller`, the model to compile and fit; `None`
            where the student is trained alone.
        levels: Levels at which prototypes supervise it.
        taps: Levels whose taps it needs without being supervised there.
        adds: Whether KD's loss can be added to it, as in `letkd2+kd`.
        stages: Whether it taps the ends of stages.
        in_memory: Whether it needs an `ImageData`.
        supervision_only: Whether its KD layers add nothing to the features (alpha 0).
    """

    title: str
    build: object
    levels: tuple = ()
    taps: tuple = ()
    adds: bool = True
    stages: bool = False
    in_memory: bool = False
    supervision_only: bool = False

    @property
    def kd_layers(self):
        """What becomes of KD layers, in a few words."""
        if not (self.levels or self.taps):
            return "none"
        return "not needed at inference" if self.supervision_only else "stay"


_PENULTIMATE, _INTERMEDIATE = ("penultimate",), ("intermediate",)
_BOTH = ("penultimate", "intermediate")

METHODS = {
    "student": Method("student alone", None, adds=False),
    "kd": Method("KD", _kd, adds=False),
    "fitnet": Method("FitNet", _fitnet, stages=True),
    "fitnet_layer": Method("FitNet + KD layer", _fitnet_layer, taps=_PENULTIMATE),
    "fitnet_letkd": Method("FitNet + KD layer, supervised", _fitnet_letkd, _PENULTIMATE),
    "at": Method("AT", _at, stages=True),
    "sp": Method("SP", _sp, stages=True),
    "vid": Method("VID", _vid, stages=True),
    "crd": Method("CRD", _crd, stages=True, in_memory=True),
    "dkd": Method("DKD", _dkd),
    "simkd": Method("SimKD", _simkd, stages=True),
    "quest": Method(
        "QUEST (letKD-1, alpha 0)", _letkd(0, None), _PENULTIMATE, supervision_only=True
    ),
    "letkd1": Method("letKD-1", _letkd("pair", None), _PENULTIMATE),
    "letkd2": Method("letKD-2", _letkd("pair", "pair"), _BOTH),
    "letkd_i0p0": Method("letKD-2, both alphas 0", _letkd(0, 0), _BOTH, supervision_only=True),
    # Further settings of the paper's ablation.
    "letkd_i0": Method(
        "intermediate level alone, alpha 0", _letkd(None, 0), _INTERMEDIATE, supervision_only=True
    ),
    "letkd_i1": Method("intermediate level alone", _letkd(None, "pair"), _INTERMEDIATE),
    "letkd_i0p1": Method("letKD-2, intermediate alpha 0", _letkd("pair", 0), _BOTH),
    "letkd_i1p0": Method("letKD-2, penultimate alpha 0", _letkd(0, "pair"), _BOTH),
}
# Those of the paper's tables of results; the rest are its ablation.
COMPARED = tuple(METHODS)[: tuple(METHODS).index("letkd_i0p0") + 1]
_PLUS_KD = "+kd"
# RepDistiller's weight of KD beside another method's loss.
_KD_WEIGHT = 1.0


def check(name, data=None):
    """Refuse an unknown method, or one that cannot be run on a data set.

    Args:
        name: Name of a method, perhaps with `+kd`.
        data: The data set, or `None`.

    Raises:
        ValueError: Listing the methods there are.
    """
    method = METHODS.get(_base(name))
    if method is None:
        close = difflib.get_close_matches(str(name), METHODS, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"`method` must be one of {', '.join(METHODS)}, perhaps with {_PLUS_KD}. "
            f"Received: method={name}.{hint}"
        )
    if name.endswith(_PLUS_KD) and not method.adds:
        raise ValueError(f"KD cannot be added to {_base(name)}. Received: method={name}")
    if method.in_memory and data is not None and not isinstance(data, ImageData):
        raise ValueError(
            f"{name} compares with every training image: its data must be in memory. "
            f"Received: {data.name}, which is streamed"
        )


def _base(name):
    return str(name).removesuffix(_PLUS_KD)


def levels(names):
    """Levels that prototypes are fitted for, penultimate first.

    Those at which any of the methods is supervised; the intermediate ones are not fitted alone.
    """
    needed = {level for name in names for level in METHODS[_base(name)].levels}
    return _BOTH if "intermediate" in needed else tuple(needed)


def tapped(names):
    """Levels whose taps any of the methods needs, penultimate first."""
    needed = {level for name in names for level in METHODS[_base(name)].taps}
    return tuple(level for level in _BOTH if level in needed or level in levels(names))


def tap_stages(names):
    """Whether any of the methods taps the ends of stages."""
    return any(METHODS[_base(name)].stages for name in names)


def title(name):
    """What a table calls the method."""
    added = " + KD" if name.endswith(_PLUS_KD) else ""
    return METHODS[_base(name)].title + added


def place(name):
    """A key that sorts names of methods as the table has them."""
    names = list(METHODS)
    base = _base(name)
    return (names.index(base) if base in METHODS else len(names), name)


def build(name, setting):
    """The model to compile and fit. Its student, or itself if it has none, is what ships.

    Args:
        name: Name of the method, perhaps with `+kd`.
        setting: `Setting`.
    """
    method = METHODS[_base(name)]
    if method.build is None:
        return setting.student
    options = {}
    if name.endswith(_PLUS_KD):
        options["logit_losses"] = {"kd": (KDLoss(), _KD_WEIGHT)}
    return method.build(setting, **options)
