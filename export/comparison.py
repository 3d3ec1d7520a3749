"""Comparing exported artifacts with the student in Keras."""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc, softmax

from letkd_keras.chance import is_near_chance

_BATCH = 64
# With fewer labelled images, chance could hide a loss of accuracy.
_ENOUGH_LABELS = 400
# What a class must lose to be named: a share of its images, and a number of them. The probability
# that any class loses so much by chance must be less.
_LOST_SHARE, _LOST_IMAGES, _LOST_BY_CHANCE = 0.2, 3, 0.05


class ExportMismatch(ValueError):
    """An artifact does not compute what the student computes, or could not be written.

    Attributes:
        exported: `Exported` by format, what `export_bundle` wrote nevertheless.
    """

    def __init__(self, message, exported=None):
        super().__init__(message)
        self.exported = exported or {}


@dataclass(frozen=True)
class Comparison:
    """How an artifact's logits compare with the student's in Keras.

    Attributes:
        max_difference: Largest absolute difference of a logit.
        scale: Largest absolute logit of the student.
        agreement: Share of the images with the same top-1 class, in [0, 1].
        num_images: Number of images compared.
        num_classes: Number of classes.
        accuracy_before: Accuracy of the student, in [0, 1]; `None` without labels.
        accuracy: Accuracy of the artifact likewise.
    """

    max_difference: float
    scale: float
    agreement: float
    num_images: int
    num_classes: int
    accuracy_before: float | None = None
    accuracy: float | None = None

    def __str__(self):
        text = (
            f"max difference {self.max_difference:.1e}, top-1 agreement "
            f"{100 * self.agreement:.2f}% of {self.num_images} images"
        )
        if self.accuracy is not None:
            text += f", accuracy {100 * self.accuracy_before:.2f}% -> {100 * self.accuracy:.2f}%"
        return text

    def check(self, name, tolerance=None, min_agreement=None, min_accuracy=None):
        """Refuse an artifact that differs too much from the student.

        Args:
            name: Name of the artifact for the error.
            tolerance: Largest difference allowed, relative to `scale`; `None` for any.
            min_agreement: Smallest agreement allowed; `None` for any.
            min_accuracy: Smallest accuracy, as a share of the student's, with which a smaller
                agreement is allowed, too, on at least 400 labelled images; `None` for none. Where
                the student is often wrong it is often unsure, and another top-1 class need not be a
                worse one. If the student is hardly better than chance, its accuracy does not count:
                any file would have it.

        Raises:
            ExportMismatch: If a limit is exceeded, or a logit is not finite.
        """
        if not np.isfinite(self.max_difference):
            raise ExportMismatch(f"{name} returns logits that are not finite.")
        if tolerance is not None and not self.max_difference <= tolerance * self.scale:
            raise ExportMismatch(
                f"{name} differs from the student by more than {tolerance:.0e} of its logits' "
                f"scale {self.scale:.3g}: {self}."
            )
        if min_agreement is None or self.agreement >= min_agreement:
            return
        missed = f"agrees with the student on less than {100 * min_agreement:.1f}% of the images"
        if min_accuracy is not None and self._tells_accuracy():
            if self.accuracy >= min_accuracy * self.accuracy_before:
                return
            missed += f" and has less than {100 * min_accuracy:.0f}% of its accuracy"
        raise ExportMismatch(f"{name} {missed}: {self}. docs/export.md#int8 says what helps.")

    def _tells_accuracy(self):
        """Whether the labels tell how much of the student's accuracy the artifact has."""
        if self.accuracy is None or self.num_images < _ENOUGH_LABELS:
            return False
        return not is_near_chance(self.accuracy_before, self.num_classes)


def compare(reference, logits, labels=None):
    """Compare an artifact's logits with the student's.

    Args:
        reference: The student's logits [N, classes].
        logits: The artifact's logits, of the same shape.
        labels: Classes [N], for accuracies.

    Returns:
        `Comparison`.

    Raises:
        ExportMismatch: If the shapes differ.
    """
    if logits.shape != reference.shape:
        raise ExportMismatch(
            f"The artifact returns outputs of shape {logits.shape}, the student {reference.shape}."
        )
    classes, expected = logits.argmax(-1), reference.argmax(-1)
    return Comparison(
        max_difference=float(np.max(np.abs(logits - reference))),
        scale=float(np.max(np.abs(reference))),
        agreement=float(np.mean(classes == expected)),
        num_images=len(reference),
        num_classes=reference.shape[-1],
        accuracy_before=None if labels is None else float(np.mean(expected == labels)),
        accuracy=None if labels is None else float(np.mean(classes == labels)),
    )


def lost_class(reference, logits, labels):
    """The class that an artifact recognizes much less often than the student.

    Top-1 agreement and accuracy hardly tell, if the class has few of the images.

    Args:
        reference: The student's logits [N, classes].
        logits: The artifact's logits, of the same shape.
        labels: Classes [N], or `None`.

    Returns:
        `(label, images, before, after)`: the class that loses the largest share of its images,
        their number, and how many of them the student and the artifact name right. `None` if no
        class loses at least three images and a fifth of its images, or if one of so many classes
        may do so by chance, where an image is lost as often as one of the other classes.
    """
    if labels is None:
        return None
    right, still_right = (x.argmax(-1) == labels for x in (reference, logits))
    lost = right & ~still_right
    found, largest, classes = None, 0.0, np.unique(labels)
    for label in classes:
        own = labels == label
        images, before, after = (int(x.sum()) for x in (own, right[own], still_right[own]))
        share = (before - after) / images
        if before - after < _LOST_IMAGES or share < _LOST_SHARE or share <= largest:
            continue
        others = lost[~own].mean() if images < len(labels) else 0.0
        # The probability that at least so many of the images are lost.
        if bdtrc(before - after - 1, images, others) * len(classes) < _LOST_BY_CHANCE:
            found, largest = (int(label), images, before, after), share
    return found


def logits_of(student, images):
    """Compute the student's logits in Keras, float32 [N, classes], in inference mode."""
    starts = range(0, len(images), _BATCH)
    outputs = [student(images[start : start + _BATCH], training=False) for start in starts]
    return np.concatenate([np.asarray(output).astype("float32") for output in outputs])


def expected_outputs(student, images, options):
    """Compute in Keras what an artifact should return for images.

    Args:
        student: Functional `keras.Model` from images to logits.
        images: Images as the artifact takes them.
        options: `ExportOptions`.

    Returns:
        float32 [N, classes]: logits or probabilities.
    """
    logits = logits_of(student, options.student_images(images))
    return softmax(logits, axis=-1) if options.output == "probabilities" else logits


def check_classify(student, pixels, probabilities, options):
    """Check what the endpoint `classify` of a SavedModel returned.

    Args:
        student: Functional `keras.Model` from normalized images to logits.
        pixels: uint8 images.
        probabilities: What the endpoint returned for them.
        options: `ExportOptions`.

    Raises:
        ExportMismatch: If its probabilities differ by more than 1e-4 from the student's.
    """
    logits = logits_of(student, options.normalize(pixels.astype("float32")))
    difference = np.max(np.abs(probabilities - softmax(logits, axis=-1)))
    if not difference <= 1e-4:
        raise ExportMismatch(
            f"`classify` of {student.name!r} differs from the student's probabilities by "
            f"{difference:.2e}."
        )
