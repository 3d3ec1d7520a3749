"""What the losses on logits share: arguments, target classes, masked softmaxes, KL divergence."""

from keras import ops

from letkd_keras.precision import at_least_float32

# Logarithm of a probability that counts for nothing. Finite, unlike -inf, so that 0 times a
# difference of two of them is 0 and not NaN.
_NOTHING = -1e9


def split(y_true, y_pred):
    """Both networks' logits in at least float32, and the labels.

    Args:
        y_true: `(teacher's logits [B, classes], labels)`.
        y_pred: Student's logits [B, classes].

    Returns:
        Teacher's logits, which no gradient flows to, student's logits and the labels as given.

    Raises:
        ValueError: If `y_true` is no pair or the numbers of classes differ.
    """
    if not isinstance(y_true, (tuple, list)) or len(y_true) != 2:
        raise ValueError(
            "`y_true` must be a pair (teacher's logits, labels). "
            f"Received: y_true of type {type(y_true).__name__}"
        )
    teacher, labels = y_true
    if len(teacher.shape) != 2 or teacher.shape[-1] != y_pred.shape[-1]:
        raise ValueError(
            "The teacher's and the student's logits must both be [B, classes]. "
            f"Received: teacher's {tuple(teacher.shape)}, student's {tuple(y_pred.shape)}"
        )
    return ops.stop_gradient(at_least_float32(teacher)), at_least_float32(y_pred), labels


def class_indices(labels, classes):
    """The target class of each image, int32 [B].

    Args:
        labels: Integers [B] or [B, 1] in any dtype (`Loss.__call__` makes floats of them), or
            one-hot or mixed labels [B, classes], whose largest entry is the target.
        classes: Number of classes.

    Raises:
        ValueError: If the shape is none of these.
    """
    shape = tuple(labels.shape)
    if len(shape) == 2 and shape[1] == classes:
        labels = ops.argmax(labels, axis=-1)
    elif len(shape) != 1 and (len(shape) != 2 or shape[1] != 1):
        raise ValueError(
            f"`labels` must be [B], [B, 1] or [B, {classes}], as there are {classes} classes. "
            f"Received: shape={shape}"
        )
    return ops.cast(ops.reshape(labels, (-1,)), "int32")


def target_mask(labels, classes):
    """True at the target class, bool [B, classes]; labels as for `class_indices`."""
    indices = class_indices(labels, classes)
    return ops.equal(indices[:, None], ops.arange(classes, dtype="int32"))


def log_softmax_without(logits, left_out):
    """Log-softmax over the classes that `left_out` [B, classes] does not name.

    Those left out get a hugely negative logarithm; where all are, the rest is uniform.
    """
    return ops.log_softmax(ops.where(left_out, _NOTHING, logits))


def log_binary(logits, chosen):
    """Logarithms of the probabilities of the chosen class and of all others together, [B, 2].

    Args:
        logits: Logits [B, classes].
        chosen: True at one class of each sample, [B, classes].
    """
    own = ops.sum(ops.where(chosen, logits, 0.0), axis=-1)
    others = ops.logsumexp(ops.where(chosen, _NOTHING, logits), axis=-1)
    return ops.log_softmax(ops.stack([own, others], axis=-1))


def kl_divergence(log_p, log_q):
    """KL(p || q) over the last axis, from logarithms: finite when p is certain."""
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)
