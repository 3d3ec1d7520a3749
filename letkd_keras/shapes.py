"""Shapes of images, of which some sizes may be open, and of grids."""


def shapes_agree(first, second):
    """Whether two shapes have as many dimensions, and equal sizes where both are known.

    Args:
        first: Sequence of integers; `None` for a size that is open.
        second: Likewise.
    """
    if len(first) != len(second):
        return False
    return all(a == b or None in (a, b) for a, b in zip(first, second, strict=True))


def grid_ratio(fine, coarse):
    """Ratio of two grids (height, width), or `None` if it is no integer or differs by direction."""
    ratios = {f // c if f % c == 0 else None for f, c in zip(fine, coarse, strict=True)}
    return ratios.pop() if len(ratios) == 1 else None
