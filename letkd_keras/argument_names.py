"""Names of arguments in errors."""

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
