import keras
import pytest


def _teacher(num_classes=5, size=8, width=6, seed=0):
    """Two blocks of convolutions with taps, layers named by Keras wherever it may."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(width, 3, 2, padding="same")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU(name="intermediate")(x)
    x = keras.layers.Conv2D(width + 2, 3, padding="same")(x)
    x = keras.layers.ReLU(name="penultimate")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x), name="small")


@pytest.fixture
def teacher():
    """A function that builds a teacher small enough for a test."""
    return _teacher
