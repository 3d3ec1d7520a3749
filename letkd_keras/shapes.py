"""Shapes of images, of which some sizes may be open."""


def shapes_agree(first, second):
    """Whether two shapes have as many dimensions, and equal sizes where both are known.

    Args:
        first: Sequence of integers; `None` for a size that is open.
        second: Likewise.
    """
    if len(first) != len(second):
        return False
    return all(a == b or None in (a, b) for a, b in zip(first, second, strict=True))
