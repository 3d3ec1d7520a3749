"""letKD for Keras 3: distillation through a layer that the student keeps."""

__version__ = "0.1.0"
