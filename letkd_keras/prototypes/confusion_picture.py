import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from letkd_keras.prototypes.class_name import class_name

_MOST_NAMES = 30
_MOST_CELLS = 400
_PAIRS = 15


def draw_confusion(intermediate, class_names=None):
    """A `Figure` of `subclass_scores`, classes ordered so that those confused are neighbours."""
    per_class, classes = intermediate.subclasses, intermediate.num_classes
    scores = intermediate.subclass_scores.astype("float64")
    by_class = scores.reshape(classes, per_class, classes, per_class).sum(axis=3).mean(axis=1)
    order = _confused_together(by_class)
    rows = (order[:, None] * per_class + np.arange(per_class)).ravel()

    figure = Figure(figsize=(21, 7.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 0.75))
    _heat_map(
        figure,
        left,
        _largest_of_blocks(scores[np.ix_(rows, rows)]),
        f"{len(scores)} sub-classes: share of a sub-class's points (row) nearest to another",
    )
    _heat_map(
        figure,
        middle,
        by_class[np.ix_(order, order)],
        f"{classes} classes: mean of their sub-classes",
    )
    left.set_xlabel("classes in the order of the picture beside, confused ones together")
    if classes <= _MOST_NAMES:
        names = [class_name(label, class_names) for label in order]
        middle.set_xticks(range(classes), names, rotation=90)
        middle.set_yticks(range(classes), names)
    _strongest_pairs(right, by_class, class_names)
    return figure


def _confused_together(by_class):
    if len(by_class) < 3:
        return np.arange(len(by_class))
    together = (by_class + by_class.T) / 2
    np.fill_diagonal(together, 0)
    distances = squareform(together.max() - together, checks=False)
    tree = hierarchy.linkage(distances, "average", optimal_ordering=True)
    return hierarchy.leaves_list(tree)


def _largest_of_blocks(values):
    """A matrix of no more rows than can be seen, by the largest value of each block."""
    starts = np.arange(0, len(values), -(-len(values) // _MOST_CELLS))
    return np.maximum.reduceat(np.maximum.reduceat(values, starts, axis=0), starts, axis=1)


def _heat_map(figure, axis, values, title):
    seen = values[values > 0]
    norm = LogNorm(vmin=max(seen.min(), 1e-4), vmax=seen.max())
    image = axis.imshow(
        np.maximum(values, norm.vmin), norm=norm, cmap="magma", interpolation="nearest"
    )
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=axis, shrink=0.8)


def _strongest_pairs(axis, by_class, class_names):
    others = by_class.copy()
    np.fill_diagonal(others, 0)
    strongest = np.argsort(others, axis=None)[::-1][:_PAIRS]
    strongest = [np.unravel_index(place, others.shape) for place in strongest]
    labels = [f"{class_name(a, class_names)} → {class_name(b, class_names)}" for a, b in strongest]
    places = np.arange(len(strongest))
    axis.barh(places, [others[pair] for pair in strongest], color="tab:red")
    axis.set_yticks(places, labels)
    axis.invert_yaxis()
    kept = np.trace(by_class) / len(others)
    axis.set_title(f"strongest confusions ({kept:.0%} stay within their class)", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
