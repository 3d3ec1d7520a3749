import logging
from pathlib import Path

import keras
from keras import ops

from letkd_keras.distillers.compatibility import (
    check_prototypes,
    matching_models,
    score_grid,
)
from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.feature_layers import layer_names
from letkd_keras.distillers.training_graph import TrainingGraph
from letkd_keras.distillers.unlabelled import complete_labels
from letkd_keras.errors import argument_renamed
from letkd_keras.functional.graph import flatten, readers
from letkd_keras.functional.insertion import insert_kd_layers, kd_layers_of
from letkd_keras.functional.layer_suggestions import suggest_layers
from letkd_keras.layers import (
    FakeQuantization,
    IntermediateTargets,
    KDLayer,
    PenultimateTargets,
    adaptive_average_pool,
)
from letkd_keras.layers.image_blocks import sum_images
from letkd_keras.layers.score_moments import pointwise_conv
from letkd_keras.levels import LEVELS
from letkd_keras.losses import TemplateKLDivergence, negentropy
from letkd_keras.prototypes import Prototypes
from letkd_keras.ranges import non_negative_number, positive_integer, positive_number

log = logging.getLogger(__name__)


def _kd_name(level):
    return f"kd_{level}"


@keras.saving.register_keras_serializable("letkd_keras")
class LetKD(Distiller):
    """letKD: a student with KD layers, whose scores agree with the teacher's soft targets.

        loss = CE + weight * KL_penultimate (+ weight * KL_intermediate)

    With both levels this is letKD-2. With `levels=("penultimate",)` it is letKD-1. letKD-1 with
    `penultimate_alpha=0` is QUEST. `student` is the model to save and export: it has the KD layers
    and no teacher.

    Where the student's grid and that of the prototypes differ, the finer of the two is averaged to
    the coarser by `letkd_keras.layers.adaptive_average_pool`: the student's scores, or the targets,
    which stay distributions. The paper instead averages the teacher's features before the
    prototypes are fitted (`fit_prototypes(pool_size=2)`), which is preferred where it makes the
    grids equal.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits or softmax
            probabilities, the one that `prototypes` were fitted on. See `Distiller`.
        student: Functional or sequential `keras.Model` from the same images to logits, or softmax
            probabilities, of the same classes. It is left as it was: `student` of the distiller is
            a copy with KD layers named `kd_penultimate` and `kd_intermediate`, which starts from
            the same weights and gives logits. A student that has layers of these names keeps them.
            If it has those of all `levels`, it is not copied: it is trained in place.
        prototypes: `Prototypes` of the teacher (`fit_prototypes`). `None` only where a distiller is
            rebuilt from its configuration, without a teacher.
        levels: What is supervised, of `"penultimate"` and `"intermediate"`. `None` for all levels
            that the prototypes have.
        penultimate_layer: Student's layer that the penultimate KD layer follows. `None` for the one
            that it follows already, or else the one that `suggest_layers` names.
        intermediate_layer: Likewise for the intermediate KD layer.
        penultimate_alpha: How much of its KD layer's value is added to the features, 0 or more.
        intermediate_alpha: Likewise.
        penultimate_weight: Weight of the penultimate KL.
        intermediate_weight: Weight of the intermediate KL.
        initial_template_scale: Initial value of the trainable scale of both KD layers' scores.
        temperature: Factor of the squared distances in the penultimate targets, more than 0. A
            larger one makes sharper targets.
        synchronized: Whether batch normalization in the KD layers spans replicas; `None` is yes
            where there are several.
        block_size: Images of the blocks in which scores, targets and their losses are computed, so
            that memory grows with the size of a block and not with that of the batch. Losses and
            gradients are the same up to rounding; a step computes the scores four times instead of
            once. `None` computes the whole batch at once. So does every `block_size` for a student
            of `quantization_aware`, because it rounds to ranges of the whole batch.
        grids: Grids, by level, on which scores and targets are compared where the student's is not
            that of the prototypes. Needed only without prototypes.
        student_layers: Names of further layers of the student that a subclass compares. Without
            prototypes they come after the layers that the KD layers follow.
        teacher_layers: Likewise of the teacher.
        loss_weights: Names of further losses of a subclass and their weights.
        **kwargs: `task_weight`, `logit_losses`, `warm_up_steps` and Keras' model arguments; see
            `Distiller`.

    Attributes:
        levels: The levels supervised, in the order above.
        penultimate_layer: Student's layer that the penultimate KD layer follows, or `None`.
        intermediate_layer: Likewise.

    Raises:
        ValueError: If teacher, student, prototypes, levels and layers do not fit each other; the
            message says which and how, and whether teacher and student are swapped.

    Reference:
        Görgün, Gürbüz, Alatan, BMVC 2023, section 3; weights and alphas as in the supplement.
    """

    def __init__(
        self,
        teacher,
        student,
        prototypes=None,
        *,
        levels=None,
        penultimate_layer=None,
        intermediate_layer=None,
        penultimate_alpha=1.0,
        intermediate_alpha=1.0,
        penultimate_weight=1.0,
        intermediate_weight=1.0,
        initial_template_scale=3.0,
        temperature=1.0,
        synchronized=None,
        block_size=None,
        grids=None,
        student_layers=(),
        teacher_layers=(),
        loss_weights=None,
        **kwargs,
    ):
        if block_size is not None:
            block_size = positive_integer.check(block_size, "block_size")
        teacher, student = matching_models(teacher, student)
        student = flatten(student)
        layers = {"penultimate": penultimate_layer, "intermediate": intermediate_layer}
        _check_both_or_neither(teacher, prototypes)
        if prototypes is None:
            levels = _levels_of(student, levels)
            grids = dict(grids or {})
        else:
            levels = _check_levels(levels) or prototypes.levels
            layers_of_teacher = check_prototypes(teacher, student, prototypes, levels)
            layers = _layers(student, levels, layers)
            fitted = {level: getattr(prototypes, level) for level in levels}
            shape = prototypes.manifest.get("image_shape")
            grids = _score_grids(teacher, student, layers, fitted, shape)
            alphas = {"penultimate": penultimate_alpha, "intermediate": intermediate_alpha}
            options = {
                "initial_template_scale": initial_template_scale,
                "synchronized": synchronized,
            }
            student = _with_kd_layers(student, fitted, layers, alphas, options)
            log.info("KD layers after %s", ", ".join(layers[level] for level in levels))
            student_layers = (*(layers[level] for level in levels), *layer_names(student_layers))
            teacher_layers = (
                *(layers_of_teacher[level] for level in levels),
                *layer_names(teacher_layers),
            )
        weights = {"penultimate": penultimate_weight, "intermediate": intermediate_weight}
        weights = {
            f"kl_{level}": non_negative_number.check(weights[level], f"{level}_weight")
            for level in levels
        }
        super().__init__(
            teacher,
            student,
            student_layers=student_layers,
            teacher_layers=teacher_layers,
            loss_weights={**weights, **(loss_weights or {})},
            **kwargs,
        )
        self.levels = levels
        self.penultimate_layer, self.intermediate_layer = (
            layers[level] if level in levels else None for level in LEVELS
        )
        self.temperature = positive_number.check(temperature, "temperature")
        self.grids = {level: grid and tuple(grid) for level, grid in grids.items()}
        self.block_size = block_size
        self.template_kl = TemplateKLDivergence()
        kd_layers = {level: self.student.get_layer(_kd_name(level)) for level in levels}
        self._in_blocks = block_size is not None and _support_blocks(kd_layers.values())
        self.training_graph = TrainingGraph(
            self.student,
            kd_layers,
            self.grids,
            layers=self.student_layers[len(levels) :],
            block_size=block_size if self._in_blocks else None,
        )
        self.targets = None
        if prototypes is not None:
            self.targets = _Targets(prototypes, levels, self.temperature, self.grids)

    @property
    def prototypes(self):
        """The teacher's `Prototypes`, or `None`."""
        return None if self.targets is None else self.targets.prototypes

    def fit(self, *args, **kwargs):
        """See `Distiller`; the teacher must still be the one that the prototypes were fitted on.

        Raises:
            ValueError: If its weights have changed, or as `Distiller.fit`.
        """
        if self.prototypes is not None:
            self.prototypes.check_teacher(self.teacher_graph.model)
        return super().fit(*args, **kwargs)

    def compute_teacher_outputs(self, x, y):
        """See `Distiller`; also, by level, `(targets [B, H, W, K], sum_k p log p [B, H, W])`.

        With a `block_size` it is, by level, `(teacher's features, y)`.
        """
        outputs = super().compute_teacher_outputs(x, y)
        y = complete_labels(y, outputs["logits"])
        levels = {
            level: (own, y) if self._in_blocks else self.targets(level, own, y)
            for level, own in zip(self.levels, outputs["features"], strict=False)
        }
        return {**outputs, **levels}

    def compute_student_outputs(self, x):
        """Logits and, by level, the KD layer's scores [B, H, W, K].

        With a `block_size` it is, by level, the features that the KD layer reads.
        """
        return self.training_graph(x, training=True)

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        compute = self._template_kl_in_blocks if self._in_blocks else self._template_kl
        return {
            f"kl_{level}": compute(
                level, student_outputs[level], teacher_outputs[level], sample_weight
            )
            for level in self.levels
        }

    def _template_kl(self, level, scores, targets, sample_weight):
        return self.template_kl(targets, scores, sample_weight)

    def _template_kl_in_blocks(self, level, features, supervision, sample_weight):
        """The mean over the images as `_template_kl` gives it, from both models' features."""
        layer = self.student.get_layer(_kd_name(level))
        teacher_features, labels = supervision
        images = ops.shape(features)[0]
        if sample_weight is None:
            sample_weight = ops.ones((images,))
        # As precise as the targets: `template_kl` itself computes in at least float32.
        dtype = keras.backend.result_type(self.template_kl.dtype, "float32")
        weights = ops.cast(ops.reshape(sample_weight, (-1,)), dtype) / ops.cast(images, dtype)
        grid = self.grids.get(level)

        def loss(directions, teacher_features, labels, weights, kernel):
            scores = pointwise_conv(directions, kernel, layer.compute_dtype)
            if grid is not None:
                scores = adaptive_average_pool(scores, grid)
            targets = self.targets(level, teacher_features, labels)
            divergences = self.template_kl.call(targets, ops.cast(scores, dtype))
            return ops.sum(weights * divergences)

        total = sum_images(
            loss,
            [layer.directions(features)],
            [layer.score_kernel()],
            self.block_size,
            constants=[teacher_features, labels, weights],
        )
        return self.scalar_loss(0.0, total)

    def get_config(self):
        return {
            **super().get_config(),
            "levels": self.levels,
            "penultimate_layer": self.penultimate_layer,
            "intermediate_layer": self.intermediate_layer,
            **{
                f"{level}_weight": self.distillation_weights[f"kl_{level}"] for level in self.levels
            },
            "temperature": self.temperature,
            "block_size": self.block_size,
            "grids": self.grids,
        }

    def save_assets(self, directory):
        """Teacher and prototypes, in a whole `.keras` file only (Keras calls this)."""
        super().save_assets(directory)
        if self.prototypes is not None:
            self.prototypes.save(Path(directory) / "prototypes.npz")

    def load_assets(self, directory):
        """Teacher and prototypes from a whole `.keras` file (Keras calls this)."""
        super().load_assets(directory)
        path = Path(directory) / "prototypes.npz"
        if path.exists():
            prototypes = Prototypes.load(path)
            self.targets = _Targets(prototypes, self.levels, self.temperature, self.grids)


class _Targets:
    """Soft targets of each level. Not a Keras object, so that a distiller does not save them."""

    def __init__(self, prototypes, levels, temperature, grids):
        self.prototypes = prototypes
        self.grids = grids
        self._layers = {}
        for level in levels:
            fitted, name = getattr(prototypes, level), f"{level}_targets"
            if level == "penultimate":
                layer = PenultimateTargets.from_prototypes(
                    fitted, temperature=temperature, name=name
                )
            else:
                layer = IntermediateTargets.from_prototypes(fitted, name=name)
            self._layers[level] = layer

    def __call__(self, level, features, labels):
        """`(targets, sum_k p log p)` of the teacher's features."""
        arguments = (labels,) if level == "intermediate" else ()
        targets = self._layers[level](features, *arguments, return_negentropy=True)
        return _resized(targets, self.grids.get(level))


def _resized(targets, grid):
    """Targets and their sums of p log p, averaged to a grid."""
    if grid is None or tuple(targets[0].shape[1:3]) == grid:
        return targets
    averaged = adaptive_average_pool(targets[0], grid)
    return averaged, negentropy(averaged)


def _score_grids(teacher, student, layers, prototypes, image_shape):
    """The grid on which scores and targets are compared, by level; `None` where both are alike."""
    grids = {}
    for level, fitted in prototypes.items():
        grid = score_grid(teacher, student, layers[level], fitted, level, image_shape)
        grids[level] = grid
        if grid is not None:
            whose = "scores" if grid == tuple(fitted.grid) else "targets"
            log.info("The %s of the %s level are averaged to a grid of %dx%d", whose, level, *grid)
    return grids


def _support_blocks(kd_layers):
    """Whether KD layers compute in blocks of images. If they do not, a message says so."""
    if all(layer.supports_blocks for layer in kd_layers):
        return True
    log.info("`block_size` does not apply to a student of `quantization_aware`")
    return False


def _check_both_or_neither(teacher, prototypes):
    """Refuse a teacher without prototypes, and prototypes without a teacher or of another type."""
    if prototypes is None and teacher is not None:
        raise ValueError(
            "`prototypes` are needed to supervise a student by `teacher`. Received: prototypes=None"
        )
    if prototypes is not None and teacher is None:
        raise ValueError("`teacher` is needed with `prototypes`. Received: teacher=None")
    if prototypes is not None and not isinstance(prototypes, Prototypes):
        raise ValueError(
            "`prototypes` must be Prototypes, of `fit_prototypes` or `Prototypes.load`. "
            f"Received: prototypes={prototypes!r}"
        )


def _check_levels(levels):
    """`levels` in the order of `LEVELS`; `None` stays `None`."""
    if levels is None:
        return None
    if isinstance(levels, str) or not levels or not set(levels) <= set(LEVELS):
        raise ValueError(
            "`levels` must be a tuple of 'penultimate' and 'intermediate', or one of them, or "
            f"None. Received: levels={levels!r}"
        )
    return tuple(level for level in LEVELS if level in levels)


def _levels_of(student, levels):
    """The levels of a student that has its KD layers."""
    present = kd_layers_of(student)
    levels = _check_levels(levels) or tuple(x for x in LEVELS if _kd_name(x) in present)
    if not levels or not all(_kd_name(level) in present for level in levels):
        raise ValueError(
            "`prototypes` are needed to put KD layers into a student. Received: prototypes=None"
        )
    return levels


def _layers(student, levels, named):
    """The student's layer that each level's KD layer follows, by level."""
    present = kd_layers_of(student)
    layers, suggested = {}, None
    for level in levels:
        if _kd_name(level) in present:
            layers[level] = _followed(student, present[_kd_name(level)]).name
            if named[level] not in (None, layers[level]):
                raise ValueError(
                    f"`{level}_layer` must be {layers[level]!r} or None, since the student's "
                    f"{_kd_name(level)!r} follows that layer. "
                    f"Received: {level}_layer={named[level]!r}"
                )
            continue
        if named[level] is not None:
            layers[level] = named[level]
            continue
        suggested = suggested or suggest_layers(student, "student")
        if suggested[level] is None:
            raise ValueError(
                f"`{level}_layer` must name a layer of {student.name!r}, since none can be "
                f"suggested; or leave out the level: levels=('penultimate',). "
                f"Received: {level}_layer=None"
            )
        layers[level] = suggested[level]
    return layers


def _followed(student, layer):
    """The layer that a KD layer was inserted after."""
    while isinstance(layer, (KDLayer, FakeQuantization)):
        layer = next(x for x in student.operations if layer in readers(student, x))
    return layer


def _with_kd_layers(student, prototypes, layers, alphas, options):
    """The student with a KD layer for each level of `prototypes` that it does not have."""
    present = kd_layers_of(student)
    inserted = {}
    for level, fitted in prototypes.items():
        layer, templates = present.get(_kd_name(level)), len(fitted.centers)
        if layer is None:
            with argument_renamed("alpha", f"{level}_alpha"):
                inserted[level] = KDLayer(
                    templates, alpha=alphas[level], name=_kd_name(level), **options
                )
        elif layer.templates != templates:
            raise ValueError(
                f"`student`'s KD layer {_kd_name(level)!r} must have as many templates as the "
                f"prototypes, {templates}. Received: {layer.templates}"
            )
    if not inserted:
        return student
    named = {f"{level}_layer": layers[level] for level in inserted}
    return insert_kd_layers(student, **inserted, **named)
