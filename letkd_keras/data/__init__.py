"""Data sets in memory and the batches made of them."""

from letkd_keras.data.cifar import load_cifar
from letkd_keras.data.digits import load_digits
from letkd_keras.data.image_data import ImageData
from letkd_keras.data.pipeline import evaluation_batches, steps_per_epoch, training_batches

__all__ = [
    "ImageData",
    "evaluation_batches",
    "load_cifar",
    "load_digits",
    "steps_per_epoch",
    "training_batches",
]
