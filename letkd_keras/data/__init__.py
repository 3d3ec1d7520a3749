"""Data sets and the batches made of them."""

from letkd_keras.data.cifar import load_cifar
from letkd_keras.data.digits import load_digits
from letkd_keras.data.image_data import ImageData
from letkd_keras.data.image_folder import load_image_folder
from letkd_keras.data.imagenet import load_imagenet
from letkd_keras.data.pipeline import evaluation_batches, steps_per_epoch, training_batches
from letkd_keras.data.streamed_images import StreamedImages
from letkd_keras.data.tiny_imagenet import load_tiny_imagenet

__all__ = [
    "ImageData",
    "StreamedImages",
    "evaluation_batches",
    "load_cifar",
    "load_digits",
    "load_image_folder",
    "load_imagenet",
    "load_tiny_imagenet",
    "steps_per_epoch",
    "training_batches",
]
