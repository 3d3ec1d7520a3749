"""Networks: the zoo of the papers, and classifiers of other sources by name."""

from letkd_keras.lazy_names import lazy_names

# Name -> module that defines it.
_PUBLIC = {
    "OpenedNetwork": "networks",
    "add_head": "heads",
    "add_network": "zoo",
    "assign_state_dict": "state_dict",
    "build": "zoo",
    "check_network_name": "network_names",
    "frozen_backbone": "heads",
    "load_torch_weights": "torch_weights",
    "names": "zoo",
    "open_network": "networks",
}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)
