import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from letkd_keras.prototypes.class_name import class_name
from letkd_keras.prototypes.kmeans import one_thread

# Fewer points than this are laid out by PCA: t-SNE needs neighbours.
_LEAST_FOR_TSNE = 50
_MOST_NAMES = 30


def draw_templates(prototypes, class_names=None):
    """A `Figure` of the templates of each level, coloured by class.

    A penultimate template has the class of most of its points; a sub-class centre has its own.
    """
    penultimate, intermediate = prototypes.penultimate, prototypes.intermediate
    health = prototypes.manifest.get("health", {}).get("penultimate", {})
    classes = np.asarray(health.get("template_classes", [-1] * penultimate.templates))
    panels = [("penultimate templates, by the commonest class", penultimate.centers, classes)]
    if intermediate is not None:
        own = np.repeat(np.arange(intermediate.num_classes), intermediate.subclasses)
        panels.append(("sub-class centres in the space of the LDA", intermediate.centers, own))
    figure = Figure(figsize=(9 * len(panels), 9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, centers, classes) in zip(axes, panels, strict=True):
        places, how = _in_the_plane(centers)
        _scatter(axis, places, classes, class_names)
        axis.set_title(f"{len(centers)} {title} ({how})")
        axis.set(xticks=[], yticks=[])
    return figure


def _in_the_plane(centers):
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(centers) < _LEAST_FOR_TSNE:
        components = min(2, *centers.shape)
        places = np.zeros((len(centers), 2))
        places[:, :components] = PCA(components, random_state=0).fit_transform(centers)
        return places, "PCA"
    perplexity = min(30, len(centers) // 5)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=0)
    with one_thread():  # the same picture on any machine
        return layout.fit_transform(centers.astype("float32")), "t-SNE"


def _scatter(axis, places, classes, class_names):
    found = np.unique(classes[classes >= 0])
    colours = np.full((len(classes), 4), 0.75)
    for number, label in enumerate(found):
        colours[classes == label] = _hue(number, len(found))
    size = np.clip(12000 / len(places), 12, 80)
    axis.scatter(*places.T, c=colours, s=size, linewidths=0)
    # Names where they mean most, of the classes whose templates lie closest together, and where
    # there is room for them.
    middles = {label: _most_central(places[classes == label]) for label in found}
    spread = {
        label: np.median(np.linalg.norm(places[classes == label] - middles[label], axis=1))
        for label in found
        if np.sum(classes == label) > 1 or len(found) <= _MOST_NAMES
    }
    room = np.ptp(places, axis=0) * (0.09, 0.03)
    named = np.zeros((0, 2))
    for label in sorted(spread, key=spread.get):
        middle = middles[label]
        if len(named) == _MOST_NAMES or (np.abs(named - middle) < room).all(axis=1).any():
            continue
        named = np.vstack([named, middle])
        axis.annotate(
            class_name(label, class_names),
            middle,
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=0.7 * colours[classes == label][0][:3],
            path_effects=[withStroke(linewidth=3, foreground="white", alpha=0.8)],
        )


def _most_central(places):
    """The one of the places that is nearest to their median."""
    return places[np.linalg.norm(places - np.median(places, axis=0), axis=1).argmin()]


def _hue(number, count):
    """Colours far apart: evenly spread, or for many by the golden section."""
    position = 0.92 * number / count if count <= 12 else number * 0.618034 % 1
    red, green, blue, _ = colormaps["hsv"](position)
    return 0.9 * red, 0.75 * green, 0.9 * blue, 1
