import keras
import numpy as np


def relative_error(actual, expected):
    """Norm of the difference over the norm of what is expected; infinite where shapes differ."""
    actual = np.asarray(keras.ops.convert_to_numpy(actual), "float64")
    expected = np.asarray(expected, "float64")
    if actual.shape != expected.shape:
        return np.inf
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)
