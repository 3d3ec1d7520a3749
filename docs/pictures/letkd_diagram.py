"""Draw letkd.svg: teacher, prototypes, and the student with its two KD layers.

python docs/pictures/letkd_diagram.py
"""

import itertools
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from letkd_keras.palette import BLUE, GRAY, GREEN, ORANGE

_PALE = {BLUE: "#DCEAF5", GRAY: "#EEEEEE", GREEN: "#DDF1EA", ORANGE: "#FBEBCB"}
_TOP, _MIDDLE, _BOTTOM = 5.1, 3.05, 0.9


def box(axes, x, y, text, color=GRAY, width=1.75, height=0.95, **style):
    """A box with a text around a point."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=_PALE[color],
            edgecolor=color,
            linewidth=1.6,
            **style,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=10, linespacing=1.25)


def arrow(axes, start, end, text="", color="#444444", shift=(0, 0), style="-", ends="-|>"):
    """An arrow with a text in its middle."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=ends,
            mutation_scale=13,
            color=color,
            linewidth=1.5,
            linestyle=style,
            shrinkA=0,
            shrinkB=0,
        )
    )
    x, y = ((a + b) / 2 + s for a, b, s in zip(start, end, shift, strict=True))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=color)


def row(axes, y, boxes):
    """Boxes from left to right with arrows between them: `(x, text, color, width)`."""
    for x, text, color, width in boxes:
        box(axes, x, y, text, color, width)
    for (x, _, _, width), (next_x, _, _, next_width) in itertools.pairwise(boxes):
        arrow(axes, (x + width / 2 + 0.03, y), (next_x - next_width / 2 - 0.03, y))


def draw():
    """The diagram as a `Figure`."""
    figure = Figure(figsize=(12.6, 5.6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 14), ylim=(-0.1, 6.12))
    axes.set_axis_off()

    row(
        axes,
        _TOP,
        [
            (0.95, "images", GRAY, 1.3),
            (2.75, "first stages", GRAY, 1.5),
            (5.2, "last stage:\nfirst block", GRAY, 1.75),
            (9.6, "last stage:\nother blocks", GRAY, 1.75),
        ],
    )
    arrow(axes, (10.51, _TOP), (11.1, _TOP))
    axes.text(
        11.2, _TOP, "(its classifier is not needed)", va="center", fontsize=9, color="#444444"
    )
    axes.text(0.3, _TOP + 0.78, "Teacher, frozen", fontsize=12, weight="bold")

    box(axes, 5.2, _MIDDLE, "intermediate prototypes:\nLDA, sub-classes of each class", GREEN, 2.75)
    box(axes, 9.6, _MIDDLE, "penultimate prototypes:\nk-means centers", GREEN, 2.75)
    axes.text(0.3, _MIDDLE + 0.1, "Prototypes", fontsize=12, weight="bold")
    axes.text(0.3, _MIDDLE - 0.25, "fitted once for a teacher", fontsize=9, color="#444444")
    arrow(axes, (5.2, _TOP - 0.5), (5.2, _MIDDLE + 0.5), "feature vectors", shift=(0.72, 0))
    arrow(axes, (9.6, _TOP - 0.5), (9.6, _MIDDLE + 0.5), "feature vectors", shift=(0.72, 0))

    row(
        axes,
        _BOTTOM,
        [
            (0.95, "images", GRAY, 1.3),
            (2.6, "first stages\nand first block\nof the last", BLUE, 1.55),
            (5.2, "KD layer", ORANGE, 1.75),
            (7.4, "other blocks", BLUE, 1.5),
            (9.6, "KD layer", ORANGE, 1.75),
            (11.5, "global\naverage", BLUE, 1.2),
            (13.1, "classifier", BLUE, 1.3),
        ],
    )
    axes.text(0.3, _BOTTOM - 0.85, "Student, trained", fontsize=12, weight="bold")
    kl = {"color": GREEN, "style": (0, (4, 2)), "ends": "<|-|>"}
    for x in (5.2, 9.6):
        text = "soft targets of each location,\nKL divergence"
        arrow(axes, (x, _MIDDLE - 0.5), (x, _BOTTOM + 0.5), text, shift=(1.25, 0), **kl)
    axes.text(13.1, _BOTTOM + 0.75, "cross-entropy", ha="center", fontsize=9, color="#444444")
    axes.text(
        5.2,
        _BOTTOM - 0.85,
        "scores for K templates, then a value for each template is added to the features",
        fontsize=9,
        color="#444444",
        va="baseline",
        ha="left",
    )
    return figure


if __name__ == "__main__":
    # The same file from the same code.
    mpl.rcParams["svg.hashsalt"] = "letkd"
    path = Path(__file__).with_name("letkd.svg")
    draw().savefig(path, metadata={"Date": None})
