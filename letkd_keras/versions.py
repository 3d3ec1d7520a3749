"""Versions of installed packages, for files that say what they were made with."""

from importlib import metadata

import keras


def versions(packages=None):
    """Installed versions of packages, by name; `None` for one that is not installed.

    Args:
        packages: Names of the packages. By default Keras, its backend and NumPy.
    """
    installed = {}
    for package in packages or ("keras", keras.backend.backend(), "numpy"):
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = None
    return installed
