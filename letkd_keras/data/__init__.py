"""Data sets and their batches."""

from letkd_keras.lazy_names import lazy_names

# Name -> module that defines it.
_PUBLIC = {
    "DataSpec": "spec",
    "Dataset": "dataset",
    "ImageData": "image_data",
    "NumberedBatches": "numbered_batches",
    "StreamedImages": "streamed_images",
    "evaluation_batches": "array_batches",
    "load_cifar": "cifar",
    "load_digits": "digits",
    "load_image_folder": "image_folder",
    "load_imagenet": "imagenet",
    "load_tiny_imagenet": "tiny_imagenet",
    "steps_per_epoch": "array_batches",
    "training_batches": "array_batches",
}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)
