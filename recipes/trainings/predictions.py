"""What a trained model puts out for the images of a data set."""

import numpy as np


def predictions(model, data, split="test"):
    """Run a model over the images of a split, in their order.

    Args:
        model: `keras.Model` of the data's images.
        data: `Dataset`.
        split: `"train"`, `"test"` or `"validation"`.

    Yields:
        For each batch what the model puts out, in NumPy, and the labels, integers [B].
    """
    for images, labels in data.evaluation_batches(split=split):
        yield model.predict_on_batch(images), np.asarray(labels)


def predicted_classes(model, data, split="test"):
    """The class that a classifier gives each image of a split, integers [N]."""
    return np.concatenate(
        [np.argmax(logits, axis=-1) for logits, _ in predictions(model, data, split)]
    )
