"""Packages whose public names are imported when they are first used."""

import importlib
import sys


def lazy_names(package, modules):
    """Make `__getattr__` and `__dir__` of a package whose names are imported on first use.

    A command imports its own package before it has parsed its options. `--help` is answered quickly
    only if that does not import TensorFlow.

    Args:
        package: Name of the package, `__name__` in its `__init__.py`.
        modules: Dictionary from each public name to the submodule that defines it; `None` for a
            submodule of this name.

    Returns:
        `(__getattr__, __dir__)`.
    """

    def get(name):
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = importlib.import_module(f"{package}.{modules[name] or name}")
        if modules[name] is not None:
            value = getattr(value, name)
        setattr(sys.modules[package], name, value)
        return value

    def names():
        return sorted(modules)

    return get, names
