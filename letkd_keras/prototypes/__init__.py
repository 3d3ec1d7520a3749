"""Prototypes: what a teacher's features look like. Fitted once, they supervise any student."""

from letkd_keras.lazy_names import lazy_names

# Name -> module that defines it.
_PUBLIC = {
    "IntermediatePrototypes": "prototypes",
    "PenultimatePrototypes": "prototypes",
    "Prototypes": "prototypes",
    "fit_prototypes": "fit",
    "remove_workdir": "steps",
}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)
