"""Modules of the user, with methods, losses, networks and layers: `--import`."""

import importlib


def import_modules(names):
    """Import modules by name.

    What a module itself raises is not caught, unless it is an import that fails.

    Raises:
        ValueError: If a name is not that of a module, or the module cannot be imported.
    """
    for name in names:
        try:
            if not all(part.isidentifier() for part in name.split(".")):
                raise ImportError("a name has no path and no suffix")
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                "`import` must be the name of a module that Python can import. "
                f"Received: import={name} ({error})"
            ) from error
