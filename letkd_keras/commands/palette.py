"""Colors of all pictures, which readers with color blindness can tell apart.

Most are those of Okabe and Ito (2008), the others from the schemes of Paul Tol.
"""

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
GRAY, WINE, INDIGO, OLIVE = "#888888", "#882255", "#332288", "#999933"
TEAL, ROSE, SAND, MAUVE = "#44AA99", "#CC6677", "#DDCC77", "#AA4499"

_CATEGORIES = (
    *(BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, WINE),
    *(BLACK, GRAY, INDIGO, OLIVE),
)


def category_colors(count):
    """Colors of categories such as classes.

    Args:
        count: Number of categories. More than twelve have shades of one scale, neighbors far
            apart: nobody tells so many colors apart, and their names have to be in the picture.

    Returns:
        List of colors (R, G, B, A), from 0 to 1.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_rgba

    if count <= len(_CATEGORIES):
        return [to_rgba(color) for color in _CATEGORIES[:count]]
    return [colormaps["viridis"](0.95 * (number * 0.618034 % 1)) for number in range(count)]
