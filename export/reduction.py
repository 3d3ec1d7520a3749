"""A student with fewer templates: some are kept, and their value kernel is fitted again."""

import logging
from dataclasses import dataclass

import keras
import numpy as np
from scipy.special import softmax

from letkd_keras import ranges
from letkd_keras.export.batch_norm_folding import fold_batch_norms
from letkd_keras.export.comparison import logits_of
from letkd_keras.export.folding import Kernels, fold_kd_layers, kernels_of
from letkd_keras.export.images_and_labels import images_for
from letkd_keras.export.loading import load_student
from letkd_keras.export.ridge import NormalEquations, fit_ridge, select_features
from letkd_keras.functional.graph import output_of
from letkd_keras.functional.insertion import kd_layers_of

log = logging.getLogger(__name__)

_BATCH = 64
_CANDIDATES = 4  # candidates for each template to keep


@dataclass(frozen=True)
class Reduction:
    """A student with fewer templates.

    Attributes:
        model: Functional `keras.Model`, folded.
        templates: Number of templates kept, by KD layer.
        errors: By KD layer, the share of the power of its contribution that the kept templates do
            not explain, on images that they were not fitted to.
    """

    model: keras.Model
    templates: dict
    errors: dict


def reduce_templates(model, images, templates, *, seed=0):
    """Copy a student with fewer templates in its KD layers.

    Hardly any template of a trained KD layer is unused, but a few hundred templates span nearly the
    same space as all of them. Forward selection chooses the templates that explain most of the
    layer's contribution. They are kept unchanged. Their value kernel is fitted again by ridge
    regression, so that the layer's output stays close to the original. Layers are processed in the
    order of the graph. A later layer is fitted to the outputs of the reduced earlier layer and
    corrects part of its error.

    Args:
        model: What `export_student` accepts, with KD layers. It is not changed.
        images: A few hundred training images [N, H, W, C], normalized. The penalty of the
            regression is chosen on a fifth of them.
        templates: Number of templates to keep in each KD layer, or a dictionary from layer names
            to numbers. A layer without more templates than that, or that the dictionary does not
            name, keeps its kernels.
        seed: Seed of the choice of candidates.

    Returns:
        `Reduction`. Its model is folded like that of `letkd_keras.export.fold`.

    Raises:
        ValueError: If there are no KD layers with alpha above 0, there are fewer than ten images or
            they do not fit, a number is out of range, or the dictionary names another layer.
    """
    student = load_student(model)
    images = images_to_fit(student, images)
    layers = reducible_layers(student)
    counts = _counts(layers, templates)
    base = fold_batch_norms(student)
    base_layers = kd_layers_of(base)
    rng = np.random.default_rng(seed)
    kernels, kept, errors = {}, {}, {}
    for name in layers:
        original = kernels_of(base_layers[name])
        kept[name], errors[name] = len(original.bias), 0.0
        if counts[name] >= len(original.bias):
            continue
        current = fold_kd_layers(base, kernels)
        batches = _Batches(base, base_layers[name], current, original, images)
        kernels[name], errors[name] = _reduce(batches, original, counts[name], rng)
        kept[name] = counts[name]
        log.info(
            "%s: %d of %d templates do not explain %.2f%% of its contribution",
            name,
            kept[name],
            len(original.bias),
            100 * errors[name],
        )
    return Reduction(fold_kd_layers(base, kernels), kept, errors)


def reducible_layers(student):
    """The KD layers of a student whose templates can be reduced, by name: alpha is above 0.

    Raises:
        ValueError: If there is none.
    """
    layers = {name: layer for name, layer in kd_layers_of(student).items() if layer.alpha > 0}
    if not layers:
        raise ValueError(
            "`model` must have KD layers with alpha above 0, whose templates can be reduced. "
            f"Received: model={student.name!r} without one"
        )
    return layers


def images_to_fit(student, images, argument="images"):
    """Check images to fit value kernels on.

    Args:
        student: Functional `keras.Model`.
        images: Array [N, H, W, C], normalized.
        argument: Name of the argument for the error.

    Returns:
        float32 [N, H, W, C].

    Raises:
        ValueError: If they do not fit the student, or are fewer than ten.
    """
    images = images_for(student, images, argument)
    if len(images) < 10:
        raise ValueError(
            f"`{argument}` must be at least ten images, better a few hundred. "
            f"Received: {len(images)} images"
        )
    return images


def fine_tune(reduced, student, images, *, epochs=5, learning_rate=1e-3, batch_size=64, seed=0):
    """Train a reduced student to match the class probabilities of the original student.

    Args:
        reduced: Model of a `Reduction`. It is trained in place; batch normalizations keep their
            statistics.
        student: The original student.
        images: Training images [N, H, W, C], normalized.
        epochs: Number of epochs.
        learning_rate: Initial learning rate of Adam. It falls to 0 along a cosine.
        batch_size: Number of images in a step.
        seed: Seed of the order.

    Returns:
        List of the loss of each epoch: the cross-entropy with the original's probabilities.

    Raises:
        ValueError: If a number is out of range, or the images do not fit.
    """
    ranges.positive_integer.check(epochs, "epochs")
    ranges.positive_number.check(learning_rate, "learning_rate")
    ranges.positive_integer.check(batch_size, "batch_size")
    student = load_student(student)
    images = images_for(student, images)
    targets = softmax(logits_of(student, images), axis=-1)
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
    """Rows `(responses, target)` for one KD layer, one row for each location, in batches.

    Args:
        base: The student before any KD layer is replaced.
        layer: Its `KDLayer`.
        current: The folded student with earlier KD layers reduced.
        kernels: The original `Kernels` of the layer.
        images: Calibration images.
    """

    def __init__(self, base, layer, current, kernels, images):
        self.channels_first = layer.data_format == "channels_first"
        features = current.get_layer(f"{layer.name}_inverse_rms").input
        self.original = keras.Model(base.inputs[0], output_of(base, layer))
        self.features = keras.Model(current.inputs[0], features)
        self.kernels = kernels
        fitted = len(images) - len(images) // 5
        self.images = {"fit": images[:fitted], "held_out": images[fitted:]}

    def rows(self, part, kept):
        """Responses of the templates `kept`, of RMS 1, and what the layer adds to the features."""
        images = self.images[part]
        templates = self.kernels.templates[:, kept].astype("float32")
        bias = self.kernels.bias[kept].astype("float32")
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            x = self._locations(self.features, batch)
            target = self._locations(self.original, batch) - x
            responses = np.maximum(_unit_rms(x) @ templates + bias, 0)
            yield _unit_rms(responses), target

    def _locations(self, model, batch):
        outputs = np.asarray(model(batch, training=False))
        if self.channels_first:
            outputs = outputs.transpose(0, 2, 3, 1)
        return outputs.reshape(-1, outputs.shape[-1])

    def equations(self, part, kept):
        """Sum the rows of a part of the images into `NormalEquations`."""
        sums = NormalEquations(len(kept), len(self.kernels.templates))
        for responses, target in self.rows(part, kept):
            sums.add(responses, target)
        return sums


def _reduce(batches, original, count, rng):
    # Forward selection among all templates would need the Gram matrix of all. A few candidates for
    # each template to keep are enough: different sets of templates explain nearly the same.
    templates = len(original.bias)
    candidates = rng.permutation(templates)[: min(templates, _CANDIDATES * count)]
    order = select_features(batches.equations("fit", candidates), count)
    kept = candidates[order]
    values, error = fit_ridge(batches.equations("fit", kept), batches.equations("held_out", kept))
    return Kernels(original.templates[:, kept], original.bias[kept], values), error


def _unit_rms(rows):
    square = np.mean(np.square(rows), axis=-1, keepdims=True)
    return rows / np.sqrt(np.maximum(square, 1e-12))


def _counts(layers, templates):
    counts = templates if isinstance(templates, dict) else dict.fromkeys(layers, templates)
    unknown = sorted(set(counts) - set(layers))
    if unknown:
        raise ValueError(
            f"`templates` must name KD layers of the model, {', '.join(layers)}. "
            f"Received: {', '.join(unknown)}"
        )
    for count in counts.values():
        ranges.positive_integer.check(count, "templates")
    return {name: counts.get(name, layer.templates) for name, layer in layers.items()}
