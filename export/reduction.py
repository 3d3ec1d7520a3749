import logging
from dataclasses import dataclass

import keras
import numpy as np

from letkd_keras.export.batch_norm_folding import fold_batch_norms
from letkd_keras.export.folding import Kernels, fold_kd_layers, kernels_of
from letkd_keras.export.loading import load_student
from letkd_keras.export.ridge import NormalEquations, fit_ridge, select_features
from letkd_keras.export.verification import images_for, logits_of
from letkd_keras.functional.graph import flatten, output_of
from letkd_keras.functional.insertion import kd_layers_of

log = logging.getLogger("letkd_keras")

_BATCH = 64
_CANDIDATES = 4  # candidates for each template that is to be kept


@dataclass(frozen=True)
class Reduction:
    """A student with fewer templates.

    Attributes:
        model: Functional `keras.Model`, folded.
        templates: Number of templates kept, by KD layer.
        errors: Share of the power of each layer's contribution that the kept templates leave
            unexplained, on images that they were not fitted to.
    """

    model: keras.Model
    templates: dict
    errors: dict


def reduce_templates(model, images, templates, *, seed=0):
    """Copy a student with fewer templates in its KD layers.

    Hardly any template of a trained KD layer is idle, but what a few hundred of them span is nearly
    what all span. So some are kept as they are, chosen by forward selection for what they explain
    of the layer's contribution, and their value kernel is fitted anew by ridge regression, such
    that the layer's output stays what it was. Layers are treated in the order of the graph; a later
    one is fitted to what the reduced earlier one gives it, and makes up for its error.

    Args:
        model: What `export_student` takes, with KD layers. It is left as it was.
        images: Calibration images [N, H, W, C], normalised, from the training data; some hundred.
            A fifth of them chooses the penalty of the regression.
        templates: Number of templates to keep in each KD layer, or a mapping of layer names to
            numbers. A layer that has no more keeps its own kernels.
        seed: Seed of the choice of candidates.

    Returns:
        A `Reduction`, whose model is folded like that of `letkd_keras.export.fold`.

    Raises:
        ValueError: If there are no KD layers, too few images or a number is out of range.
    """
    student = load_student(model)
    images = images_for(student, images)
    layers = {name: layer for name, layer in kd_layers_of(student).items() if layer.alpha > 0}
    wanted = _counts(layers, templates, student)
    if len(images) < 10:
        raise ValueError(
            f"`images` must be at least ten, better some hundred. Received: {len(images)} images"
        )
    base = fold_batch_norms(flatten(student))
    base_layers = kd_layers_of(base)
    rng = np.random.default_rng(seed)
    kernels, kept, errors = {}, {}, {}
    for name in layers:
        own = kernels_of(base_layers[name])
        kept[name], errors[name] = len(own.bias), 0.0
        if wanted[name] >= len(own.bias):
            continue
        batches = _Batches(base, base_layers[name], fold_kd_layers(base, kernels), own, images)
        kernels[name], errors[name] = _reduce(batches, own, wanted[name], rng)
        kept[name] = wanted[name]
        log.info(
            "%s: %d of %d templates leave %.2f%% of its contribution unexplained",
            name,
            kept[name],
            len(own.bias),
            100 * errors[name],
        )
    return Reduction(fold_kd_layers(base, kernels), kept, errors)


def fine_tune(reduced, student, images, *, epochs=5, learning_rate=1e-3, batch_size=64, seed=0):
    """Train a reduced student a little to give the whole one's class probabilities.

    Args:
        reduced: Model of a `Reduction`; it is trained in place. Batch normalisations that are left
            keep their statistics.
        student: The whole student.
        images: Training images [N, H, W, C], normalised.
        epochs: Number of passes.
        learning_rate: Rate of Adam at the start; it falls to 0 along a cosine.
        batch_size: Images a step.
        seed: Seed of the order.

    Returns:
        The loss (cross-entropy with the student's probabilities) of each epoch.
    """
    targets = np.asarray(keras.ops.softmax(logits_of(load_student(student), images)))
    for layer in reduced.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    steps = epochs * -(-len(images) // batch_size)
    reduced.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        ),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    keras.utils.set_random_seed(seed)
    history = reduced.fit(images, targets, batch_size=batch_size, epochs=epochs, verbose=0)
    return history.history["loss"]


class _Batches:
    """Batches of `(responses, wanted)` rows for one KD layer, a row a location.

    Args:
        base: The student before any KD layer is replaced.
        layer: The `KDLayer` of it.
        current: The folded student with earlier KD layers reduced.
        kernels: The layer's own `Kernels`.
        images: Calibration images.
    """

    def __init__(self, base, layer, current, kernels, images):
        self.first = layer.data_format == "channels_first"
        features = current.get_layer(f"{layer.name}_inverse_rms").input
        self.wanted = keras.Model(base.inputs[0], output_of(base, layer))
        self.features = keras.Model(current.inputs[0], features)
        self.kernels = kernels
        fitted = len(images) - len(images) // 5
        self.images = {"fit": images[:fitted], "held_out": images[fitted:]}

    def rows(self, part, kept):
        """Responses of the templates `kept`, unit RMS, and what is to be added to the features."""
        images = self.images[part]
        templates = self.kernels.templates[:, kept].astype("float32")
        bias = self.kernels.bias[kept].astype("float32")
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            x = self._locations(self.features, batch)
            target = self._locations(self.wanted, batch) - x
            responses = np.maximum(_unit_rms(x) @ templates + bias, 0)
            yield _unit_rms(responses), target

    def _locations(self, model, batch):
        outputs = np.asarray(model(batch, training=False))
        if self.first:
            outputs = outputs.transpose(0, 2, 3, 1)
        return outputs.reshape(-1, outputs.shape[-1])

    def equations(self, part, kept):
        """`NormalEquations` of a part of the images."""
        sums = NormalEquations(len(kept), len(self.kernels.templates))
        for responses, target in self.rows(part, kept):
            sums.add(responses, target)
        return sums


def _reduce(batches, own, count, rng):
    # Forward selection among all would cost a Gram matrix of all. A few for each that is kept do:
    # templates are much alike in what they can explain together.
    templates = len(own.bias)
    candidates = rng.permutation(templates)[: min(templates, _CANDIDATES * count)]
    order = select_features(batches.equations("fit", candidates), count)
    kept = np.sort(candidates[order])
    values, error = fit_ridge(batches.equations("fit", kept), batches.equations("held_out", kept))
    return Kernels(own.templates[:, kept], own.bias[kept], values), error


def _unit_rms(rows):
    square = np.mean(np.square(rows), axis=-1, keepdims=True)
    return rows / np.sqrt(np.maximum(square, 1e-12))


def _counts(layers, templates, student):
    if not layers:
        raise ValueError(
            "`model` must have KD layers whose values are used (alpha above 0). "
            f"Received: model={student.name!r} without one"
        )
    counts = templates if isinstance(templates, dict) else dict.fromkeys(layers, templates)
    unknown = sorted(set(counts) - set(layers))
    if unknown:
        raise ValueError(
            f"`templates` must name KD layers of the model, {', '.join(layers)}. "
            f"Received: {', '.join(unknown)}"
        )
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"`templates` must be integers of at least 1. Received: {count!r} for {name!r}"
            )
    return {name: counts.get(name, layer.templates) for name, layer in layers.items()}
