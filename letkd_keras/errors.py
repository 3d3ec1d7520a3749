"""Sentences of errors: names of arguments, and reasons that other packages give."""

import difflib
import importlib.util
import re
from contextlib import contextmanager


@contextmanager
def argument_renamed(name, of_caller):
    """A scope whose errors name an argument as the caller's own.

        with argument_renamed("fraction", "validation_fraction"):
            data = data.hold_out(validation_fraction)

    Args:
        name: Name of the argument in the functions that are called.
        of_caller: Name of what is passed to it.

    Raises:
        ValueError: As in the scope, with the other name. Likewise `FileNotFoundError`.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        if f"`{name}`" not in str(error):
            raise
        message = str(error).replace(f"`{name}`", f"`{of_caller}`")
        raise type(error)(re.sub(rf"\b{name}=", f"{of_caller}=", message)) from error


def error_reason(error):
    """The first line of an error's message, or the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_packages(names, argument, received):
    """Refuse an argument that needs packages which are not installed.

    Args:
        names: Names of the packages, as they are imported and installed.
        argument: Name of the argument.
        received: Its value.

    Raises:
        ImportError: If one is missing.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"`{argument}` needs {' and '.join(missing)}: pip install {' '.join(missing)}. "
            f"Received: {received!r}"
        )


def did_you_mean(value, names):
    """Suggest the name that a wrong one resembles.

    Returns:
        `". Did you mean NAME?"`, to be put after another sentence, or an empty text.
    """
    # The dashes of options, which all of them have, make no two options similar.
    by_word = {str(name).lstrip("-"): name for name in names}
    close = difflib.get_close_matches(str(value).lstrip("-"), by_word, n=1, cutoff=0.65)
    return f". Did you mean {by_word[close[0]]}?" if close else ""
