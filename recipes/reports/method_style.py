"""How each method is drawn: the same color in all pictures."""

from letkd_keras.commands import palette
from letkd_keras.losses import LOGIT_LOSSES
from letkd_keras.recipes.experiments import methods

_COLORS = {
    "teacher": palette.BLACK,
    "student": palette.GRAY,
    "kd": palette.ORANGE,
    "dkd": palette.VERMILION,
    "quest": palette.SKY,
    "letkd1": palette.GREEN,
    "letkd2": palette.BLUE,
    "fitnet": palette.PURPLE,
    "at": palette.WINE,
    "sp": palette.OLIVE,
    "vid": palette.ROSE,
    "crd": palette.INDIGO,
    "simkd": palette.TEAL,
}
_OTHERS = (palette.MAUVE, palette.SAND, palette.YELLOW)
# A variant has the color of what it is a variant of, and a line of another kind.
_VARIANTS = {"letkd_": palette.BLUE, "fitnet_": palette.PURPLE}
# At least as many as there are losses to add.
_LINES = ("--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))


def style(name):
    """Color and line of a method.

    Args:
        name: Name of a method, or `"teacher"`.

    Returns:
        Dictionary of `color` and `linestyle`, options of `matplotlib.axes.Axes.plot`. A method with
        an added loss has the color of the method.
    """
    base, *added = name.split("+")
    if added:
        number = sum([*LOGIT_LOSSES].index(loss) for loss in added)
        return {**style(base), "linestyle": _LINES[number % len(_LINES)]}
    if base in _COLORS:
        return {"color": _COLORS[base], "linestyle": "-"}
    others = [other for other in methods.names() if other not in _COLORS]
    number = others.index(base) if base in others else 0
    color = _OTHERS[number % len(_OTHERS)]
    for start, variant in _VARIANTS.items():
        if base.startswith(start):
            color = variant
    return {"color": color, "linestyle": _LINES[number % len(_LINES)]}


def title(name):
    """What a method, or `"teacher"`, is called in pictures and tables."""
    return "teacher" if name == "teacher" else methods.title(name)
