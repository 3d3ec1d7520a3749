"""Images without labels in a batch: their label is -1."""

import keras
from keras import ops


def complete_labels(labels, teacher_logits):
    """Labels with the teacher's class for images without one.

    Args:
        labels: Integers [B] or [B, 1], -1 for no label; or distributions [B, classes], which are
            returned as they are. Where a data set declares no width, their type tells which.
        teacher_logits: Teacher's logits [B, classes].

    Returns:
        Labels of the same shape and type.
    """
    if not _are_integers(labels, teacher_logits.shape[-1]):
        return labels
    classes = ops.cast(ops.argmax(teacher_logits, axis=-1), labels.dtype)
    return ops.where(labels >= 0, labels, ops.reshape(classes, ops.shape(labels)))


def labelled(labels, classes):
    """1 for images with a label and 0 for those without, float32 [B].

    Args:
        labels: As for `complete_labels`.
        classes: Number of classes.

    Returns:
        Tensor [B], or `None` where labels are distributions.
    """
    if not _are_integers(labels, classes):
        return None
    return ops.cast(ops.reshape(labels, (-1,)) >= 0, "float32")


def mean_over_labelled(labels, classes, sample_weight=None):
    """Weights with which a mean over the batch is the mean over the images with a label.

        weight = B / (number of images with a label), 0 without a label

    Where no image of the batch has a label, all weights are 0. The weights suit losses that are a
    mean over the batch (`reduction="sum_over_batch_size"`, Keras' default).

    Args:
        labels: As for `complete_labels`.
        classes: Number of classes.
        sample_weight: Weights of the images, [B] or [B, 1], which are multiplied, or `None`.

    Returns:
        Weights [B], or `sample_weight` where labels are distributions.
    """
    mask = labelled(labels, classes)
    if mask is None:
        return sample_weight
    count = ops.sum(mask)
    size = ops.cast(ops.shape(mask)[0], mask.dtype)
    return weighted(mask * (size / ops.maximum(count, 1.0)), sample_weight)


def weighted(mask, sample_weight):
    """The product of weights [B] and [B] or [B, 1], the second perhaps `None`."""
    if mask is None or sample_weight is None:
        return sample_weight if mask is None else mask
    return mask * ops.cast(ops.reshape(sample_weight, (-1,)), mask.dtype)


def _are_integers(labels, classes):
    """Whether labels are [B] or [B, 1] rather than [B, classes]."""
    if keras.backend.standardize_dtype(labels.dtype) == "bool":
        return False  # both classes are labels
    if len(labels.shape) > 1 and labels.shape[-1] is None:
        return keras.backend.is_int_dtype(labels.dtype)
    return len(labels.shape) == 1 or labels.shape[-1] != classes
