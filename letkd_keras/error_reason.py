"""The reason that an error of another package gives, for a sentence of this package."""


def error_reason(error):
    """The first line of an error's message, or the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
