"""Recipes: the papers' experiments, and yours, from the command line."""

from letkd_keras.lazy_names import lazy_names

# Name -> module that defines it. The names are imported when they are first used, so that a
# command's `--help` does not wait for TensorFlow.
_PUBLIC = {"METHODS": "experiments.methods", "Method": "experiments.methods"}

__all__ = sorted(_PUBLIC)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC)
