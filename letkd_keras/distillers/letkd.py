from pathlib import Path

import keras

from letkd_keras.distillers.distiller import Distiller, FrozenTeacher
from letkd_keras.functional.graph import (
    check_functional,
    find_layer,
    flatten,
    grid_ratio,
    output_of,
    spatial_shape,
)
from letkd_keras.functional.insertion import TrainingGraph, insert_kd_layers, kd_layers_of
from letkd_keras.layers import IntermediateTargets, KDLayer, PenultimateTargets
from letkd_keras.losses import TemplateKLDivergence

_TARGETS = {"penultimate": PenultimateTargets, "intermediate": IntermediateTargets}


def _kd_name(level):
    return f"kd_{level}"


class Supervision:
    """The teacher and what its prototypes make of it: soft targets for each KD layer.

    Args:
        teacher: Functional teacher, the one that `prototypes` were fitted on.
        prototypes: `Prototypes`.
        levels: Names of the levels wanted, of `"penultimate"` and `"intermediate"`.
        temperature: Sharpness T of the penultimate targets.

    Call arguments:
        x: Images.
        y: Labels.

    Returns:
        Dictionary, by level, of `(targets [B, H, W, K], sum_k p log p [B, H, W])`, and of the
        teacher's `"logits"` and, by level, `"features"`.

    Raises:
        ValueError: If the prototypes belong to another teacher or lack a level.
    """

    def __init__(self, teacher, prototypes, levels, temperature=1.0):
        check_functional(teacher, "teacher")
        for level in levels:
            if getattr(prototypes, level) is None:
                raise ValueError(
                    f"`prototypes` hold nothing for the {level} KD layer; fit them with "
                    f"`{level}=` naming a layer of the teacher, or pass `{level}=None` here."
                )
        prototypes.check_teacher(teacher)
        self.prototypes = prototypes
        self.teacher = FrozenTeacher(
            teacher, {level: getattr(prototypes, level).layer for level in levels}
        )
        options = {"penultimate": {"temperature": temperature}, "intermediate": {}}
        self.targets = {
            level: _TARGETS[level].from_prototypes(
                getattr(prototypes, level), name=f"{level}_targets", **options[level]
            )
            for level in levels
        }

    def __call__(self, x, y):
        features = self.teacher(x)
        labels = {"penultimate": (), "intermediate": (y,)}
        taught = {
            level: targets(features[level], *labels[level], return_negentropy=True)
            for level, targets in self.targets.items()
        }
        return {**taught, "logits": features["logits"], "features": features}


@keras.saving.register_keras_serializable("letkd_keras")
class LetKD(Distiller):
    """The distilling model of letKD: a student with KD layers, trained under a teacher's eyes.

        loss = CE + weight * KL_penultimate (+ weight * KL_intermediate)

    with both levels letKD-2, with `intermediate=None` letKD-1, and that with
    `penultimate_alpha=0` QUEST. `model.student` is what ships: KD layers inside, no teacher.

    Args:
        student: Functional `keras.Model` from images to logits. It is left as it was:
            `model.student` is a copy with KD layers named `kd_penultimate` and `kd_intermediate`,
            starting from the same weights. A student that has layers of these names keeps them.
        teacher: Functional `keras.Model` from the same images to logits of the same classes. It
            stays frozen, in inference mode, and outside the model's weights and checkpoints.
        prototypes: `Prototypes` fitted on this teacher (`fit_prototypes`).
        penultimate: Student's layer that the penultimate KD layer follows, or `None` for none.
        intermediate: Student's layer that the intermediate KD layer follows, or `None` for none.
        penultimate_alpha: How much of its KD layer's value is added, 0 or more.
        intermediate_alpha: Likewise.
        penultimate_weight: Weight of the penultimate KL.
        intermediate_weight: Weight of the intermediate KL.
        temperature: Sharpness T of the penultimate targets.
        synchronized: Whether BN in the KD layers spans replicas; `None` is yes where there are
            several.
        pools: Windows, by level, by which scores are averaged where the student's grid is finer
            than the prototypes'. Found from the grids; needed only without prototypes.
        **kwargs: `task_weight`, `kd_weight`, `kd_temperature` and Keras' model arguments.

    Raises:
        ValueError: If teacher, student, prototypes and taps do not fit each other; the message says
            which and how.

    Reference:
        Görgün, Gürbüz, Alatan, BMVC 2023, section 3; weights and alphas as in the supplement.
    """

    def __init__(
        self,
        student,
        teacher=None,
        prototypes=None,
        *,
        penultimate="penultimate",
        intermediate="intermediate",
        penultimate_alpha=1.0,
        intermediate_alpha=1.0,
        penultimate_weight=1.0,
        intermediate_weight=1.0,
        temperature=1.0,
        synchronized=None,
        pools=None,
        **kwargs,
    ):
        taps = {"intermediate": intermediate, "penultimate": penultimate}
        taps = {level: tap for level, tap in taps.items() if tap is not None}
        if not taps:
            raise ValueError("`penultimate` and `intermediate` are both None: nothing to distil.")
        check_functional(student, "student")
        if prototypes is not None:
            pools = _check_fit(student, teacher, prototypes, taps)
            supervision = Supervision(teacher, prototypes, taps, temperature)
            alphas = {"penultimate": penultimate_alpha, "intermediate": intermediate_alpha}
            student = _with_kd_layers(student, prototypes, taps, alphas, synchronized)
        elif not all(_kd_name(level) in kd_layers_of(student) for level in taps):
            raise ValueError(
                "`teacher` and `prototypes` are needed to put KD layers into a student. "
                f"Received: teacher={teacher}, prototypes={prototypes}"
            )
        else:
            supervision = None
            pools = dict(pools or {})
        weights = {"penultimate": penultimate_weight, "intermediate": intermediate_weight}
        super().__init__(student, {f"kl_{level}": weights[level] for level in taps}, **kwargs)
        self.taps = taps
        self.temperature = float(temperature)
        self.supervision = supervision
        self.template_kl = TemplateKLDivergence()
        self.pools = pools
        self.training_graph = TrainingGraph(
            self.student, {level: self.student.get_layer(_kd_name(level)) for level in taps}, pools
        )

    def teach(self, x, y):
        if self.supervision is None:
            raise ValueError(
                "This LetKD has no teacher: it was rebuilt from its configuration alone. Load it "
                "from a whole `.keras` file, or make a new one with a teacher and prototypes."
            )
        return self.supervision(x, y)

    def learn(self, x):
        return self.training_graph(x, training=True)

    def distillation_losses(self, learned, taught, sample_weight=None):
        return {
            f"kl_{level}": self.template_kl(taught[level], learned[level], sample_weight)
            for level in self.taps
        }

    def get_config(self):
        config = super().get_config()
        for level in ("penultimate", "intermediate"):
            config[level] = self.taps.get(level)
            config[f"{level}_weight"] = self.distillation_weights.get(f"kl_{level}", 1.0)
        return {**config, "temperature": self.temperature, "pools": self.pools}

    def save_assets(self, directory):
        """Teacher and prototypes, in a whole `.keras` file only (Keras calls this)."""
        if self.supervision is not None:
            directory = Path(directory)
            self.supervision.teacher.model.save(directory / "teacher.keras")
            self.supervision.prototypes.save(directory / "prototypes.npz")

    def load_assets(self, directory):
        """Teacher and prototypes from a whole `.keras` file (Keras calls this)."""
        from letkd_keras.prototypes import Prototypes

        directory = Path(directory)
        if (directory / "teacher.keras").exists():
            teacher = keras.models.load_model(directory / "teacher.keras", compile=False)
            prototypes = Prototypes.load(directory / "prototypes.npz")
            self.supervision = Supervision(teacher, prototypes, self.taps, self.temperature)


def _with_kd_layers(student, prototypes, taps, alphas, synchronized):
    present = kd_layers_of(student)
    layers = {
        level: KDLayer(
            len(getattr(prototypes, level).centers),
            alpha=alphas[level],
            synchronized=synchronized,
            name=_kd_name(level),
        )
        for level in taps
        if _kd_name(level) not in present
    }
    for level in taps:
        layer, templates = present.get(_kd_name(level)), len(getattr(prototypes, level).centers)
        if layer is not None and layer.templates != templates:
            raise ValueError(
                f"`student` has a {_kd_name(level)!r} of {layer.templates} templates; the "
                f"prototypes have {templates}."
            )
    if not layers:
        return student
    return insert_kd_layers(
        student, **layers, **{f"{level}_layer": taps[level] for level in layers}
    )


def _check_fit(student, teacher, prototypes, taps):
    """Everything that would otherwise fail, or silently mislead, in the middle of training.

    Returns:
        Windows by level by which the student's grid is larger than the prototypes'.
    """
    if teacher is None:
        raise ValueError("`teacher` is needed with `prototypes`. Received: teacher=None")
    check_functional(teacher, "teacher")
    classes, teacher_classes = student.output_shape[-1], teacher.output_shape[-1]
    if classes != teacher_classes:
        raise ValueError(
            "`student` and `teacher` must have the same number of classes. "
            f"Received: {classes} and {teacher_classes}"
        )
    flat = flatten(student)
    pools = {}
    for level, tap in taps.items():
        output = output_of(flat, find_layer(flat, tap, argument=level))
        if len(output.shape) != 4:
            raise ValueError(
                f"`{level}` must name a layer with feature maps [B, H, W, C]. "
                f"Received: {level}={tap!r} of shape {tuple(output.shape)}"
            )
        fitted = getattr(prototypes, level)
        if fitted is None:
            continue  # Supervision says so.
        grid = spatial_shape(output.shape)
        if None in grid:
            continue
        pools[level] = grid_ratio(grid, fitted.grid)
        if pools[level] is None:
            raise ValueError(
                f"`student`'s {level} layer {tap!r} has a grid of {grid[0]}x{grid[1]}, the "
                f"prototypes one of {fitted.grid[0]}x{fitted.grid[1]}, which must divide it. Fit "
                "prototypes with a `pool_size` that makes the teacher's grid the student's."
            )
    return pools
