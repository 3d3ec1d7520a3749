"""Draw letkd.svg: teacher, prototypes, and the student with its two KD layers.

python docs/pictures/letkd_diagram.py

The picture is high and narrow, so that its labels can be read on a telephone. Coordinates are
pixels on a screen that is 340 pixels wide, from the top left corner.
"""

import itertools
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from letkd_keras.commands.palette import BLUE, GRAY, GREEN, ORANGE

_PALE = {BLUE: "#DCEAF5", GRAY: "#EEEEEE", GREEN: "#DDF1EA", ORANGE: "#FBEBCB"}
_INK, _GREEN_INK = "#444444", "#00694C"
_WIDTH, _HEIGHT = 340, 470
_POINTS = 1.125  # of a font, for a pixel: the picture is 510 pixels wide where there is room
_TEACHER, _PROTOTYPES, _STUDENT = 43, 169, 297  # middles of the columns
_INTERMEDIATE, _PENULTIMATE = 195, 318  # middles of the rows


def write(axes, x, y, text, size=10.5, **style):
    """A text around a point, its size in pixels."""
    style = {"ha": "center", "va": "center", "linespacing": 1.2, "color": _INK, **style}
    axes.text(x, y, text, fontsize=size * _POINTS, **style)


def box(axes, x, y, text, color, height=42, width=82):
    """A box with a text around a point."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=5",
            facecolor=_PALE[color],
            edgecolor=color,
            linewidth=1.6,
        )
    )
    write(axes, x, y, text, 11, color="black")


def arrow(axes, start, end, color=_INK, style="-", ends="-|>"):
    """An arrow."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=ends,
            mutation_scale=11,
            color=color,
            linewidth=1.5,
            linestyle=style,
            shrinkA=0,
            shrinkB=0,
        )
    )


def column(axes, x, boxes):
    """Boxes from top to bottom with arrows between them: `(y, text, color, height)`."""
    for y, text, color, height in boxes:
        box(axes, x, y, text, color, height)
    for (y, _, _, height), (next_y, _, _, next_height) in itertools.pairwise(boxes):
        arrow(axes, (x, y + height / 2 + 1), (x, next_y - next_height / 2 - 1))


def draw():
    """The diagram as a `Figure`."""
    figure = Figure(figsize=(_WIDTH / 64, _HEIGHT / 64))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(_HEIGHT, 0))
    axes.set_axis_off()

    for x, title, text in (
        (_TEACHER, "Teacher", "frozen"),
        (_PROTOTYPES, "Prototypes", "fitted once"),
        (_STUDENT, "Student", "trained"),
    ):
        write(axes, x, 18, title, 13.5, weight="bold", color="black", va="baseline")
        write(axes, x, 34, text, va="baseline")
    box(axes, _WIDTH / 2, 58, "images", GRAY, height=24, width=_WIDTH - 4)
    for x, top in ((_TEACHER, 106), (_STUDENT, 92)):
        arrow(axes, (x, 71), (x, top))

    column(
        axes,
        _TEACHER,
        [
            (125, "first\nstages", GRAY, 36),
            (_INTERMEDIATE, "last stage:\nfirst block", GRAY, 42),
            (_PENULTIMATE, "last stage:\nother\nblocks", GRAY, 54),
        ],
    )
    column(
        axes,
        _STUDENT,
        [
            (121, "first stages,\nfirst block\nof the last", BLUE, 56),
            (_INTERMEDIATE, "KD layer", ORANGE, 42),
            (257, "other\nblocks", BLUE, 36),
            (_PENULTIMATE, "KD layer", ORANGE, 42),
            (379, "global\naverage", BLUE, 36),
            (430, "classifier", BLUE, 28),
        ],
    )
    write(axes, _STUDENT, 457, "cross-entropy")

    box(
        axes,
        _PROTOTYPES,
        _INTERMEDIATE,
        "intermediate\nprototypes:\nLDA and\nsub-classes",
        GREEN,
        66,
    )
    box(axes, _PROTOTYPES, _PENULTIMATE, "penultimate\nprototypes:\nk-means\ncenters", GREEN, 66)
    left, right = _PROTOTYPES - 42, _PROTOTYPES + 42
    targets = {"color": GREEN, "style": (0, (3, 1.5)), "ends": "<|-|>"}
    for y in (_INTERMEDIATE, _PENULTIMATE):
        arrow(axes, (_TEACHER + 42, y), (left, y))
        write(axes, (_TEACHER + 42 + left) / 2, y - 17, "feature\nvectors")
        arrow(axes, (right, y), (_STUDENT - 42, y), **targets)
        middle = (right + _STUDENT - 42) / 2
        write(axes, middle, y - 17, "soft\ntargets", color=_GREEN_INK)
        write(axes, middle, y + 11, "KL loss", color=_GREEN_INK)

    write(
        axes,
        4,
        412,
        "A KD layer computes scores for\nK templates at each location.\n"
        "Then it adds a value for each\ntemplate to the features.",
        ha="left",
    )
    return figure


if __name__ == "__main__":
    # The same file from the same code.
    mpl.rcParams["svg.hashsalt"] = "letkd"
    path = Path(__file__).with_name("letkd.svg")
    draw().savefig(path, metadata={"Date": None})
