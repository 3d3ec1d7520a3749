"""The images and labels that an export is given: checked, and noise where there are none."""

import numpy as np

from letkd_keras.data.one_hot import classes_of
from letkd_keras.export.input_scaling import takes_pixels
from letkd_keras.shapes import shapes_agree

_RANDOM_IMAGES = 8


def images_for(student, images=None, argument="images", options=None):
    """Check images to run a student or its artifacts on; without images, make eight of noise.

    Args:
        student: Functional `keras.Model`.
        images: Array [N, ...] or `None`.
        argument: Name of the argument for the error.
        options: `ExportOptions` for images as the artifacts take them; `None` for images as the
            student takes them, which are uint8 only if it rescales pixels itself.

    Returns:
        float32 [N, ...].

    Raises:
        ValueError: If they are no array, their shape is not that of the student's input, they are
            not finite, or not normalized as the options say or the student needs.
    """
    shape = student.input_shape[1:]
    if images is None:
        if None in shape:
            raise ValueError(
                f"`{argument}` must be given (--data) for a model whose input size is open. "
                f"Received: {argument}=None, an input of shape {student.input_shape}"
            )
        rng, shape = np.random.default_rng(0), (_RANDOM_IMAGES, *shape)
        is_pixels = options is not None and options.input == "pixels"
        noise = rng.integers(0, 256, shape) if is_pixels else rng.standard_normal(shape)
        return noise.astype("float32")
    given, images = images, np.asarray(images)
    if images.dtype == object:
        raise ValueError(
            f"`{argument}` must be an array; `np.concatenate([x for x, _ in data_set])` makes one "
            f"of a data set. Received: a {type(given).__name__}"
        )
    if not (images.size and shapes_agree(shape, images.shape[1:])):
        raise ValueError(
            f"`{argument}` must be of the shape that the model takes, {student.input_shape}. "
            f"Received: {argument} of shape {images.shape}"
        )
    if not np.all(np.isfinite(images)):
        raise ValueError(f"`{argument}` must be finite. Received: {argument} with NaN or infinity")
    if options is None:
        if images.dtype == np.uint8 and not takes_pixels(student):
            raise ValueError(
                f"`{argument}` must be normalized as for the student. "
                f"Received: {argument} of type uint8"
            )
        return images.astype("float32")
    return options.artifact_images(images, argument)


def pixels_for_classify(images):
    """Random uint8 images [N, H, W, C] for the endpoint `classify`, of the size of `images`."""
    shape = (_RANDOM_IMAGES, *images.shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


def check_labels(labels, images, classes):
    """Check that there is one label for each image.

    Args:
        labels: Integers [N] or [N, 1], one-hot labels [N, classes], or `None`.
        images: The images [N, ...].
        classes: Number of classes.

    Returns:
        Array [N], or `None`.

    Raises:
        ValueError: If the number is another one, or a label is not a class.
    """
    if labels is None:
        return None
    labels = classes_of(labels, classes)
    if labels.dtype.kind not in "iufb":
        raise ValueError(
            f"`labels` must be integers from 0 to {classes - 1}, the classes of the model. "
            f"Received: labels of type {labels.dtype}"
        )
    if labels.shape != (len(images),):
        raise ValueError(
            f"`labels` must be one class for each of the {len(images)} images. "
            f"Received: labels of shape {labels.shape}"
        )
    if not np.all((labels >= 0) & (labels < classes) & (labels % 1 == 0)):
        raise ValueError(
            f"`labels` must be integers from 0 to {classes - 1}, the classes of the model. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels
