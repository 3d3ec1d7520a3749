"""Checks of the losses, metrics, images and labels that a distiller is trained with."""

import logging
import math
import numbers
import re

import keras
import numpy as np

from letkd_keras.data.image_data import UNLABELLED
from letkd_keras.data.one_hot import add_up_to_one

log = logging.getLogger(__name__)

# Images that are looked at together.
_BLOCK = 256

# Losses of Keras, in lower case without underscores: that have no logits, that take labels as
# integers, and that take them as distributions.
_OF_PROBABILITIES = {"kldivergence", "poisson", "dice", "tversky"}
_OF_INTEGERS = {"sparsecategoricalcrossentropy"}
_OF_DISTRIBUTIONS = {
    *("categoricalcrossentropy", "categoricalfocalcrossentropy"),
    *("binarycrossentropy", "binaryfocalcrossentropy"),
}

# Metrics of Keras that compare outputs with thresholds, which are probabilities.
_WITH_THRESHOLDS = (
    *(keras.metrics.AUC, keras.metrics.BinaryAccuracy),
    *(keras.metrics.Precision, keras.metrics.Recall),
    *(keras.metrics.PrecisionAtRecall, keras.metrics.RecallAtPrecision),
    *(keras.metrics.SensitivityAtSpecificity, keras.metrics.SpecificityAtSensitivity),
    *(keras.metrics.TruePositives, keras.metrics.TrueNegatives),
    *(keras.metrics.FalsePositives, keras.metrics.FalseNegatives),
    *(keras.metrics.F1Score, keras.metrics.FBetaScore, keras.metrics.BinaryIoU),
)

# Largest integer up to which a type has all integers.
_LARGEST_EXACT = {"bfloat16": 2**8, "float16": 2**11}


def check_loss(loss, classes):
    """Refuse a loss that does not fit the one output of a distiller, the logits of its student.

    Args:
        loss: What `compile` was given.
        classes: Number of classes.

    Raises:
        ValueError: If it is a dictionary, by names of outputs; if it is a cross-entropy of Keras
            without `from_logits=True`, or another loss of Keras on probabilities; or if Keras,
            which casts labels to the type of the loss, would round indices of classes.
    """
    if isinstance(loss, dict):
        raise ValueError(
            "`loss` must be one loss, since a student has one output. "
            f"Received: a dictionary with the keys {', '.join(map(str, loss))}"
        )
    for each in keras.tree.flatten(loss):
        found = keras.losses.get(each) if isinstance(each, str) else each
        if _is_of_probabilities(found):
            raise ValueError(
                "`loss` must take logits, since a softmax at the end of the student is removed: "
                "keras.losses.SparseCategoricalCrossentropy(from_logits=True). "
                f"Received: loss={each if isinstance(each, str) else _name(found)} of probabilities"
            )
        dtype = getattr(found, "dtype", keras.config.floatx())
        if classes - 1 > _LARGEST_EXACT.get(dtype, classes):
            raise ValueError(
                f"`loss` must have dtype='float32' for {classes} classes, since Keras rounds "
                f"labels to its dtype. Received: loss={_name(found)} with dtype={dtype}"
            )


def check_suits_labels(loss, labels, classes):
    """Refuse a cross-entropy of Keras for the other kind of labels; Keras' error names neither.

    Args:
        loss: What `check_loss` has let pass.
        labels: Labels of a batch.
        classes: Number of classes.

    Raises:
        ValueError: If the loss takes integers and the labels are distributions, or the reverse.
    """
    shape = tuple(labels.shape)
    are_distributions = shape[1:] == (classes,)
    if not are_distributions and shape[1:] not in ((), (1,)):
        return  # of unknown or wrong width
    wrong = _OF_INTEGERS if are_distributions else _OF_DISTRIBUTIONS
    suitable = "CategoricalCrossentropy" if are_distributions else "SparseCategoricalCrossentropy"
    kind = "distributions over the classes" if are_distributions else "integers"
    for each in keras.tree.flatten(loss):
        if _kind_of_keras(each) in wrong:
            raise ValueError(
                f"`loss` must be keras.losses.{suitable}(from_logits=True) for labels that are "
                f"{kind}. Received: loss={_name(each)} and labels of shape {shape}"
            )


def check_sample_weight(weights, labels):
    """Refuse weights that are not one for each image; Keras' error does not name them.

    Args:
        weights: The `sample_weight` of a batch, or `None`.
        labels: Labels of the batch, [B, ...].

    Raises:
        ValueError: If the shape is neither [B] nor [B, 1].
    """
    shape = getattr(weights, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:
        return  # `None`, or a tensor of TensorFlow with an unknown number of dimensions
    shape, images = tuple(shape), labels.shape[0]
    fits = shape and (images is None or shape[0] in (images, None))
    if not fits or shape[1:] not in ((), (1,), (None,)):
        raise ValueError(
            "`sample_weight` must have one weight for each image, the shape (batch,) or "
            f"(batch, 1). Received: sample_weight of the shape {shape} for labels of the shape "
            f"{tuple(labels.shape)}"
        )


def _is_of_probabilities(loss):
    """Whether it is a loss of Keras on probabilities, without `from_logits=True`."""
    kind = _kind_of_keras(loss)
    of_probabilities = kind.endswith("crossentropy") or kind in _OF_PROBABILITIES
    return of_probabilities and not getattr(loss, "from_logits", False)


def _kind_of_keras(loss):
    """The name of a loss of Keras, an object or a function, without underscores, or `""`."""
    name = _name(loss)
    of_keras = getattr(keras.losses, name, None) in (loss, type(loss))
    return name.lower().replace("_", "") if of_keras else ""


def _name(loss):
    return getattr(loss, "__name__", type(loss).__name__)


def check_metrics(metrics, losses):
    """Refuse metrics whose values would be wrong, or would be replaced in the logs.

    Args:
        metrics: The compiled metrics, a list of `keras.metrics.Metric`.
        losses: Names of the losses in the logs.

    Raises:
        ValueError: If a metric of Keras takes probabilities, is an AUC, which computes a sigmoid of
            each logit, or has the name of a loss.
    """
    for metric in metrics:
        if _takes_probabilities(metric):
            # Not of an AUC: see `_takes_probabilities`.
            has_option = (
                type(metric) not in _WITH_THRESHOLDS and "from_logits" in metric.get_config()
            )
            raise ValueError(
                "`metrics` must take logits, which a distiller's student puts out: "
                f"{'set `from_logits=True`, or ' if has_option else ''}evaluate "
                "keras.Sequential([distiller.student, keras.layers.Softmax()]) by the metric. "
                f"Received: metric {metric.name!r} of probabilities"
            )
        if metric.name in losses:
            raise ValueError(
                f"`metrics` must not have the name of a loss in the logs ({', '.join(losses)}): "
                "rename the metric, or the loss in `logit_losses`. "
                f"Received: metric {metric.name!r}"
            )


def _takes_probabilities(metric):
    if getattr(keras.metrics, type(metric).__name__, None) is not type(metric):
        return False  # of one's own
    if type(metric) in _WITH_THRESHOLDS:
        # Precision and recall with `top_k`, and F1 without a threshold, look at the order alone.
        # An AUC with `from_logits=True` computes the sigmoid of a logit, not its probability.
        return not (getattr(metric, "top_k", None) or getattr(metric, "threshold", 0) is None)
    of_probabilities = _is_of_probabilities(getattr(metric, "_fn", metric))
    return of_probabilities and not metric.get_config().get("from_logits", False)


def check_class_weight(class_weight, classes):
    """Refuse weights that Keras would leave out without a word, and negative ones.

    Args:
        class_weight: What `fit` was given.
        classes: Number of classes.

    Raises:
        ValueError: If it is not `None` and no dictionary from classes to weights.
    """
    if class_weight is None:
        return
    expected = (
        f"`class_weight` must be a dictionary from classes, integers from 0 to {classes - 1}, to "
        "weights of at least 0"
    )
    if not isinstance(class_weight, dict):
        received = " ".join(repr(class_weight).split())  # arrays have several lines
        raise ValueError(f"{expected}. Received: class_weight={received}")
    for label, weight in class_weight.items():
        # As for Keras, 1.0 is the class 1, and a weight may be a scalar tensor.
        is_scalar = getattr(weight, "shape", None) == () and not isinstance(weight, str)
        number = float(weight) if is_scalar else weight
        is_weight = isinstance(number, numbers.Real) and 0 <= number < math.inf
        if label not in range(classes) or not is_weight:
            raise ValueError(f"{expected}. Received: {label!r}: {weight!r}")


def check_images_and_labels(images, labels, classes, takes_unlabelled=False):
    """Refuse NumPy arrays that would make the loss NaN; other kinds of data are not looked at.

    Of a `keras.utils.PyDataset` the arrays of the first batch are looked at.

    Args:
        images: Array [N, ...], or anything else that `fit` takes.
        labels: Integers [N] or [N, 1], or distributions [N, classes], likewise.
        classes: Number of classes.
        takes_unlabelled: Whether labels may be -1, for images without a label.

    Raises:
        ValueError: If an image is not finite, a label is not one of the classes, or a distribution
            has negative numbers or does not add up to 1, as with several labels for an image.
    """
    place = ""
    if isinstance(images, keras.utils.PyDataset) and images.num_batches != 0:
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(images[0])
        place = " in the first batch"
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        _check_images(images, place)
    if isinstance(labels, np.ndarray) and labels.dtype.kind != "V":  # such as bfloat16
        _check_labels(labels, classes, takes_unlabelled, place)


def _check_images(images, place):
    """Refuse images with NaN or infinite values; `place` ends the error."""
    # Block by block: the result of `isfinite` has an entry for each pixel.
    for start in range(0, len(images), _BLOCK):
        finite = np.isfinite(images[start : start + _BLOCK]).reshape(-1, images[0].size)
        if not finite.all():
            bad = start + int(np.argmin(finite.all(axis=1)))
            raise ValueError(
                f"`x` must be finite. Received: NaN or infinite values in image {bad}{place}"
            )


def _check_labels(labels, classes, takes_unlabelled, place):
    """Refuse labels that are neither classes nor distributions; `place` ends the error."""
    expected = expected_labels(classes, takes_unlabelled)
    if labels.dtype.kind not in "iufb":
        raise ValueError(f"{expected}. Received: labels of type {labels.dtype}{place}")
    if labels.ndim == 2 and labels.shape[1] == classes:
        if labels.min(initial=0) < 0 or not add_up_to_one(labels):
            sums = labels.sum(axis=1, dtype="float64")
            raise ValueError(
                f"{expected}; a distribution adds up to 1, and several labels for an image are not "
                f"supported. Received: numbers from {labels.min():g} that add up to "
                f"{sums.min():g} to {sums.max():g} for an image{place}"
            )
        return
    smallest = UNLABELLED if takes_unlabelled else 0
    known = (labels >= smallest) & (labels < classes) & (labels % 1 == 0)
    if not np.all(known):
        raise ValueError(
            f"{expected}. Received: labels from {labels.min()} to {labels.max()} of type "
            f"{labels.dtype}{place}"
        )
    if np.any(labels < 0):
        log.info("%d of %d images%s have no label", np.sum(labels < 0), len(labels), place)


def expected_labels(classes, takes_unlabelled):
    """The first half of an error: what labels must be, without a full stop at the end."""
    unlabelled = f", or {UNLABELLED} for images without a label" if takes_unlabelled else ""
    return (
        f"`y` must be integers from 0 to {classes - 1}, the classes of the student, or "
        f"distributions over them{unlabelled}"
    )


def label_out_of_range(error, classes):
    """The label that TensorFlow refused because there is no such class, or `None`.

    Args:
        error: The exception that a step raised.
        classes: Number of classes.
    """
    found = re.search(
        rf"label value of (-?\d+) which is outside|= (-?\d+) is not in \[0, {classes}\)", str(error)
    )
    return found and int(found[1] or found[2])
