import numpy as np

from letkd_keras.data import ImageData


def image_data(**changes):
    """A data set for the small student: 60 training and 30 test images, ordered by class."""
    rng = np.random.default_rng(2)
    y_train, y_test = np.repeat(np.arange(5), 12), np.repeat(np.arange(5), 6)
    fields = {
        "name": "blocks",
        "x_train": rng.integers(0, 256, (60, 16, 16, 3), "uint8"),
        "y_train": y_train,
        "x_test": rng.integers(0, 256, (30, 16, 16, 3), "uint8"),
        "y_test": y_test,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.25, 0.3),
        "class_names": tuple("abcde"),
        "split": "made for tests",
    }
    return ImageData(**{**fields, **changes})
