import numpy as np


def classes_of(labels, num_classes):
    """Turn one-hot or mixed labels, and a column of classes, into classes.

    Args:
        labels: Any labels; one-hot and mixed ones are [B, num_classes] and add up to 1, a column is
            [B, 1], as in `keras.datasets`.
        num_classes: Number of classes.

    Returns:
        [B]: of one-hot and mixed labels the classes of largest share, of a column its values. Other
        labels are returned as they are, also those of images with several labels.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1 != num_classes:
        return labels[:, 0]
    if labels.ndim == 2 and labels.shape[1] == num_classes and labels.dtype.kind in "iufb":
        return labels.argmax(axis=1) if add_up_to_one(labels) else labels
    return labels


def add_up_to_one(labels):
    """Whether each row of labels [B, num_classes] adds up to 1, as one-hot and mixed ones do."""
    # Half precision, mixing and smoothing of labels leave the sums within 0.01 of 1.
    return bool(np.all(abs(labels.sum(axis=1, dtype="float64") - 1) <= 0.01))
