"""The zoo: networks of the papers as functional Keras models with named layers."""

from letkd_keras.models.state_dict import assign_state_dict
from letkd_keras.models.torch_weights import load_torch_weights
from letkd_keras.models.zoo import build, names

__all__ = ["assign_state_dict", "build", "load_torch_weights", "names"]
