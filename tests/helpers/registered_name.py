"""The name under which a saved model refers to a class."""

import keras


def has_registered_name(value):
    """Whether files name the class of an object by the package, whatever module it is in."""
    kind = type(value)
    return keras.saving.get_registered_name(kind) == f"letkd_keras>{kind.__name__}"
