"""List the commands of this package."""

import ast
import importlib.util
import sys
from pathlib import Path

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.errors import did_you_mean

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
    """Print the list, or how to run the command whose name was given."""
    commands = list_commands()
    lines = ["Commands, each with its own --help:"]
    for module, description in commands.items():
        lines += [f"  python -m {module}", f"    {description}"]
    text = "\n".join(lines)
    parser = Parser(__package__, __doc__, epilog=text)
    words = sys.argv[1:] if arguments is None else arguments
    if words and not words[0].startswith("-"):
        # Before --help, which may be meant for that command.
        parser.error(_answer_to(words[0], [name.partition(".")[2] for name in commands]))
    parser.parse_args(words)
    print(text)


def _answer_to(word, names):
    name = word.removeprefix(f"{__package__}.")
    if name in names:
        return f"{word} is a command of its own: run python -m {__package__}.{name}"
    hint = did_you_mean(name, names) or f". python -m {__package__} lists the commands"
    return f"there is no command {word}{hint}"


def _runs(statement):
    """Whether a statement is `if __name__ == "__main__": run_main(main)`."""
    return isinstance(statement, ast.If) and "run_main" in ast.unparse(statement)


if __name__ == "__main__":
    run_main(main)
