"""A teacher and images small enough for a test, also for tests in processes of their own."""

import keras
import numpy as np

SIZES = {"templates": 12, "subclasses": 3, "components": 3, "iterations": 5}


def small_teacher(num_classes=5, size=8, width=6, seed=0):
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


def small_images(images=60, classes=5, size=8, seed=0):
    """`(images, labels)` of coloured noise, whose colour tells the class."""
    r = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    colours = r.standard_normal((classes, 3))
    x = colours[labels][:, None, None] + r.standard_normal((images, size, size, 3))
    return x.astype("float32"), labels
