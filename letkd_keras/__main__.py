"""List the commands of this package."""

import ast
import importlib.util
from pathlib import Path

from letkd_keras.commands.command_line import Parser, run_main

_PACKAGES = ("recipes", "prototypes", "export", "models", "data")


def list_commands():
    """Find the modules that `python -m` runs, without importing them.

    Returns:
        Dictionary from the name of a module to the first line of its docstring.
    """
    commands = {}
    for package in _PACKAGES:
        name = f"{__package__}.{package}"
        (folder,) = importlib.util.find_spec(name).submodule_search_locations
        for file in sorted(Path(folder).glob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if any(_runs(statement) for statement in tree.body):
                module = name if file.stem == "__main__" else f"{name}.{file.stem}"
                commands[module] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return commands


def main(arguments=None):
    """Print the list."""
    Parser("letkd_keras", __doc__).parse_args(arguments)
    print("Commands, each with its own --help:")
    for module, description in list_commands().items():
        print(f"  python -m {module}\n      {description}")


def _runs(statement):
    """Whether a statement is `if __name__ == "__main__": run_main(main)`."""
    return isinstance(statement, ast.If) and "run_main" in ast.unparse(statement)


if __name__ == "__main__":
    run_main(main)
