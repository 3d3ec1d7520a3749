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
from letkd_keras.functional.layer_suggestions import suggest_stage_ends
from letkd_keras.layers import KDLayer


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

    def stages(self, which):
        """Taps at the ends of the stages that both networks have, counted from the last.

        Args:
            which: Slice of the stages.

        Returns:
            `student_layers` and `teacher_layers` in a dictionary.
        """
        ours, theirs = suggest_stage_ends(self.student), suggest_stage_ends(self.teacher)
        count = min(len(ours), len(theirs))
        return {"student_layers": ours[-count:][which], "teacher_layers": theirs[-count:][which]}


_ALL, _SECOND, _LAST = slice(None), slice(1, 2), slice(-1, None)


def _kd(setting):
    return KD(setting.student, setting.teacher)


def _fitnet(setting, **options):
    return FitNet(setting.student, setting.teacher, **setting.stages(_SECOND), **options)


def _fitnet_layer(setting, **options):
    """The hint at the intermediate tap, behind a KD layer that nothing supervises."""
    subclasses = setting.experiment.subclasses * setting.experiment.data.num_classes
    student = insert_kd_layers(
        setting.student,
        intermediate=KDLayer(
            subclasses, alpha=setting.experiment.pair.intermediate_alpha, name="kd_intermediate"
        ),
        intermediate_layer=setting.taps.student["intermediate"],
    )
    return FitNet(
        student,
        setting.teacher,
        student_layers=("kd_intermediate",),
        teacher_layers=(setting.taps.teacher["intermediate"],),
        **options,
    )


def _fitnet_letkd(setting, **options):
    return HintedLetKD(
        setting.student,
        setting.teacher,
        setting.prototypes,
        intermediate=setting.taps.student["intermediate"],
        intermediate_alpha=setting.experiment.pair.intermediate_alpha,
        **options,
    )


def _at(setting, **options):
    return AT(setting.student, setting.teacher, **setting.stages(_ALL), **options)


def _sp(setting, **options):
    return SP(setting.student, setting.teacher, **setting.stages(_LAST), **options)


def _vid(setting, **options):
    return VID(setting.student, setting.teacher, **setting.stages(_ALL), **options)


def _crd(setting, **options):
    labels = setting.experiment.data.y_train
    return CRD(setting.student, setting.teacher, labels, **setting.stages(_LAST), **options)


def _simkd(setting, **options):
    return SimKD(setting.student, setting.teacher, **setting.stages(_LAST), **options)


def _dkd(setting, **options):
    schedule = setting.experiment.student_schedule
    steps = steps_per_epoch(setting.experiment.data.train_examples, schedule.batch_size)
    return DKD(
        setting.student,
        setting.teacher,
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
        for level, alpha in alphas.items():
            if alpha is None:
                options[level] = None
                continue
            options[level] = setting.taps.student[level]
            own = getattr(setting.experiment.pair, f"{level}_alpha")
            options[f"{level}_alpha"] = own if alpha == "pair" else alpha
        temperature = setting.experiment.temperature
        return LetKD(
            setting.student,
            setting.teacher,
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
    "fitnet_layer": Method("FitNet + KD layer", _fitnet_layer, taps=_INTERMEDIATE),
    "fitnet_letkd": Method("FitNet + KD layer, supervised", _fitnet_letkd, _INTERMEDIATE),
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
    options = {"kd_weight": _KD_WEIGHT} if name.endswith(_PLUS_KD) else {}
    return method.build(setting, **options)
