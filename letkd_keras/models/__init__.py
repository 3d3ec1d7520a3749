"""The zoo: networks of the papers as functional Keras models with named layers."""

from letkd_keras.lazy_names import lazy_names

# Name -> module that defines it.
_PUBLIC = {
    "assign_state_dict": "state_dict",
    "build": "zoo",
    "load_torch_weights": "torch_weights",
    "names": "zoo",
}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)
