"""What a training does with its data: few images, images without a label, weights of classes."""

import numpy as np

from letkd_keras.errors import argument_renamed


def few_for_students(data, examples, seed):
    """The data that students are trained on, of which there may be few.

    Args:
        data: The data, opened.
        examples: Number of the training images; `None` for all.
        seed: Seed of the choice.

    Returns:
        The data set. Few images are repeated until an epoch has as many steps as with all.

    Raises:
        ValueError: If the number does not fit the data.
    """
    if examples is None:
        return data
    if not data.in_memory:
        raise ValueError(
            "`student_examples` needs data in memory. Received: "
            f"student_examples={examples} with {data.name}, which is read from disk"
        )
    with argument_renamed("examples", "student_examples"):
        return data.few(examples, seed)


def balanced_class_weights(data):
    """Weights of images by class with which every class counts the same.

    Args:
        data: `ImageData`, or `StreamedImages` of files.

    Returns:
        Dictionary of numbers by class, `images / (classes * images of the class)`. Their mean over
        the training images is 1.

    Raises:
        ValueError: If the labels are known only once all images have been read.
    """
    if data.in_memory:
        labels = data.y_train
    elif hasattr(data.train, "files"):
        labels = data.train.files.labels
    else:
        raise ValueError(
            "`class_weights` need labels that are known before the images are read. "
            f"Received: {data.name}, whose images are records"
        )
    counts = np.bincount(labels, minlength=data.num_classes)
    # A class without training images has no image to weight.
    weights = len(labels) / (data.num_classes * np.maximum(counts, 1))
    return {label: float(weight) for label, weight in enumerate(weights)}
