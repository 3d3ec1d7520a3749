"""Pictures of prototypes: PNG files, drawn without a screen."""

from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from letkd_keras.commands.palette import VERMILION, category_colors
from letkd_keras.files import save_figure
from letkd_keras.prototypes.kmeans import one_thread
from letkd_keras.prototypes.labelled_images import LabelledImages
from letkd_keras.prototypes.points import labels_of
from letkd_keras.prototypes.subclasses import NearestSubclasses
from letkd_keras.prototypes.teacher_features import TeacherFeatures

# Fewer points than this are laid out by PCA: t-SNE needs neighbors.
_LEAST_FOR_TSNE = 50
# Limits of what can be read or seen in a picture.
_MOST_NAMES = 30
_MOST_CELLS = 400
_PAIRS = 15
_IMAGES = 6
_BARS = 6
_HISTOGRAMS = 3
_MOST_IN_LEGEND = 40
_MOST_LABELS = 120
_OTHER_CLASS = (0.75, 0.75, 0.75, 1)


def draw(prototypes, folder, teacher=None, data=None, *, preprocess=None, class_names=None):
    """Draw all pictures that can be drawn.

    - `templates.png`: the templates in two dimensions (t-SNE, or PCA where they are few), colored
      by class.
    - `confusion.png`: which classes the teacher confuses, by `subclass_scores`.
    - `subclass_maps.png`: which sub-class each location of some images belongs to and what the
      teacher confuses it with (as figure 2 of the paper's supplement). It needs teacher and data.

    Args:
        prototypes: `Prototypes`.
        folder: Folder of the PNG files; created if needed.
        teacher: The `keras.Model` that they belong to, or `None`.
        data: Images and labels as in `fit_prototypes`, or `None`.
        preprocess: As in `fit_prototypes`; images are shown as they are before it.
        class_names: Names of the classes; `None` means those of the manifest, or numbers.

    Returns:
        Paths of the files written.

    Raises:
        ValueError: If the prototypes belong to another teacher.
    """
    if class_names is None:
        class_names = prototypes.manifest.get("data", {}).get("class_names")
    if teacher is not None:
        prototypes.check_teacher(teacher)
    pictures = {"templates": draw_templates(prototypes, class_names)}
    if prototypes.intermediate is not None:
        pictures["confusion"] = draw_confusion(prototypes.intermediate, class_names)
        if teacher is not None and data is not None:
            pictures["subclass_maps"] = draw_subclass_maps(
                prototypes, teacher, data, preprocess, class_names
            )
    paths = [Path(folder) / f"{name}.png" for name in pictures]
    for path, figure in zip(paths, pictures.values(), strict=True):
        save_figure(figure, path, dpi=120)
    return paths


def class_name(label, class_names):
    """Name of a class, or its number where there are no names."""
    return f"class {label}" if class_names is None else str(class_names[label])


# === Templates ===


def draw_templates(prototypes, class_names=None):
    """A `Figure` of the templates of each level, colored by class.

    A penultimate template has the class of most of its points; a sub-class center has its own.
    """
    penultimate, intermediate = prototypes.penultimate, prototypes.intermediate
    health = prototypes.manifest.get("health", {}).get("penultimate", {})
    classes = np.asarray(health.get("template_classes", [-1] * penultimate.templates))
    panels = [("penultimate templates by their most frequent class", penultimate.centers, classes)]
    if intermediate is not None:
        own = np.repeat(np.arange(intermediate.num_classes), intermediate.subclasses)
        panels.append(("sub-class centers by class", intermediate.centers, own))
    figure = Figure(figsize=(8 * len(panels), 8.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    shown = sorted({int(label) for _, _, classes in panels for label in classes if label >= 0})
    colors = dict(zip(shown, category_colors(len(shown)), strict=True))
    for axis, (title, centers, classes) in zip(axes, panels, strict=True):
        positions, how = _in_the_plane(centers)
        _scatter(axis, positions, classes, class_names, colors)
        axis.set_title(f"{len(centers)} {title}")
        axis.set(
            xticks=[], yticks=[], xlabel=f"first axis of {how}", ylabel=f"second axis of {how}"
        )
    if 0 < len(shown) <= _MOST_IN_LEGEND:
        for label in shown:
            axes[0].scatter([], [], color=colors[label], label=class_name(label, class_names))
        legend = figure.legend(title="class", loc="outside lower center", ncols=10)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _in_the_plane(centers):
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(centers) < _LEAST_FOR_TSNE:
        components = min(2, *centers.shape)
        positions = np.zeros((len(centers), 2))
        positions[:, :components] = PCA(components, random_state=0).fit_transform(centers)
        return positions, "PCA"
    perplexity = min(30, len(centers) // 5)
    layout = TSNE(perplexity=perplexity, init="pca", random_state=0)
    with one_thread():  # the same picture on any machine
        return layout.fit_transform(centers.astype("float32")), "t-SNE"


def _scatter(axis, positions, classes, class_names, color_of):
    shown = np.unique(classes[classes >= 0])
    colors = np.full((len(classes), 4), 0.75)
    for label in shown:
        colors[classes == label] = color_of[label]
    size = np.clip(12000 / len(positions), 12, 80)
    axis.scatter(*positions.T, c=colors, s=size, linewidths=0)
    # Classes whose templates lie closest together are named first, and only where there is room.
    middles = {label: _most_central(positions[classes == label]) for label in shown}
    spread = {
        label: np.median(np.linalg.norm(positions[classes == label] - middles[label], axis=1))
        for label in shown
        if np.sum(classes == label) > 1 or len(shown) <= _MOST_NAMES
    }
    room = np.ptp(positions, axis=0) * (0.09, 0.03)
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
            parse_math=False,
            color=0.7 * colors[classes == label][0][:3],
            path_effects=[withStroke(linewidth=3, foreground="white", alpha=0.8)],
        )


def _most_central(positions):
    """The position that is nearest to the median of all."""
    return positions[np.linalg.norm(positions - np.median(positions, axis=0), axis=1).argmin()]


# === Confusion ===


def draw_confusion(intermediate, class_names=None):
    """A `Figure` of `subclass_scores`, with confused classes next to each other."""
    per_class, classes = intermediate.subclasses, intermediate.num_classes
    scores = intermediate.subclass_scores.astype("float64")
    by_class = scores.reshape(classes, per_class, classes, per_class).sum(axis=3).mean(axis=1)
    order = _confused_together(by_class)
    rows = (order[:, None] * per_class + np.arange(per_class)).ravel()

    labels = np.arange(0, classes, -(-classes // _MOST_LABELS))
    side = max(7.5, 0.16 * len(labels))
    figure = Figure(figsize=(2.8 * side, side), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 0.75))
    cells = _largest_of_blocks(scores[np.ix_(rows, rows)])
    _heat_map(left, cells, f"{len(scores)} sub-classes")
    means = by_class[np.ix_(order, order)]
    _heat_map(middle, means, f"{classes} classes, means of their sub-classes")
    left.set(xlabel="sub-class of the nearest center", ylabel="sub-class of the location")
    middle.set(xlabel="class of the nearest center", ylabel="class of the location")
    # All classes have their names, unless these would be too small to read.
    names = [class_name(order[position], class_names) for position in labels]
    size = min(10, 40 * side / len(labels))
    rows_of_class = len(cells) / classes
    for axis, ticks in ((left, (labels + 0.5) * rows_of_class - 0.5), (middle, labels)):
        axis.set_xticks(ticks, names, rotation=90, fontsize=size, parse_math=False)
        axis.set_yticks(ticks, names, fontsize=size, parse_math=False)
    figure.suptitle(
        "Which sub-classes and classes the teacher confuses; confused classes are side by side"
    )
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
    """A matrix of at most `_MOST_CELLS` rows: the largest value of each block."""
    starts = np.arange(0, len(values), -(-len(values) // _MOST_CELLS))
    return np.maximum.reduceat(np.maximum.reduceat(values, starts, axis=0), starts, axis=1)


def _heat_map(axis, values, title):
    seen = values[values > 0]
    norm = LogNorm(vmin=max(seen.min(), 1e-4), vmax=seen.max())
    image = axis.imshow(
        np.maximum(values, norm.vmin), norm=norm, cmap="cividis", interpolation="nearest"
    )
    axis.set_title(title, fontsize=10)
    axis.figure.colorbar(image, ax=axis, shrink=0.7, label="share of the locations of a row")


def _strongest_pairs(axis, by_class, class_names):
    others = by_class.copy()
    np.fill_diagonal(others, 0)
    strongest = np.argsort(others, axis=None)[::-1][:_PAIRS]
    strongest = [np.unravel_index(index, others.shape) for index in strongest]
    strongest = [pair for pair in strongest if others[pair] > 0]
    labels = [f"{class_name(a, class_names)} → {class_name(b, class_names)}" for a, b in strongest]
    positions = np.arange(len(strongest))
    axis.barh(positions, [others[pair] for pair in strongest], color=VERMILION)
    axis.set_yticks(positions, labels, parse_math=False)
    axis.set_xlabel("share of the locations of the first class")
    axis.invert_yaxis()
    kept = np.trace(by_class) / len(others)
    axis.set_title(f"Most confused classes ({kept:.0%} of points stay in their class)", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


# === Maps of sub-classes ===


def subclass_legend(axis, colors, other_class):
    """Name the colors of the sub-classes below a picture.

    Args:
        axis: One of the picture's axes, which shows nothing but an image.
        colors: Color of each sub-class.
        other_class: Color of the sub-classes of other classes.
    """
    for number, color in enumerate(colors):
        axis.bar(0, 0, color=color, label=f"{number}")
    axis.bar(0, 0, color=other_class, label="of another class")
    handles, texts = axis.get_legend_handles_labels()
    axis.figure.legend(
        handles,
        texts,
        title="sub-classes of the image's class",
        loc="outside lower center",
        ncols=min(len(texts), 13),
    )


def draw_subclass_maps(prototypes, teacher, data, preprocess=None, class_names=None):
    """A `Figure` of some images, the sub-class of each location, and the rows of scores there."""
    intermediate = prototypes.intermediate
    images, labels = one_of_each_class(data, intermediate.num_classes, _IMAGES)
    own = own_subclasses(
        prototypes, teacher, images if preprocess is None else preprocess(images), labels
    )
    colors = np.array(category_colors(intermediate.subclasses))
    figure = Figure(figsize=(4.4 + 3.4 * _HISTOGRAMS, 2.3 * len(images)), layout="constrained")
    widths = [1, 1] + [1.2] * _HISTOGRAMS
    axes = figure.subplots(len(images), len(widths), squeeze=False, width_ratios=widths)
    for row, image, label, subclasses in zip(axes, images, labels, own, strict=True):
        picture = _displayed(image)
        row[0].imshow(picture)
        row[0].set_title(class_name(label, class_names), fontsize=10, parse_math=False)
        _overlay(row[1], picture, subclasses, colors)
        shown, counts = np.unique(subclasses, return_counts=True)
        shown = shown[np.argsort(-counts, kind="stable")]
        for axis, subclass in zip(row[2:], shown, strict=False):
            share = np.mean(subclasses == subclass)
            _histogram(axis, intermediate, label, subclass, share, class_names, colors)
        for axis in (*row[:2], *row[2 + len(shown) :]):
            axis.set_axis_off()
    axes[0, 1].set_title("sub-class", fontsize=10)
    subclass_legend(axes[0, 0], colors, _OTHER_CLASS)
    for axis in axes[-1, 2:]:
        axis.set_xlabel("target", fontsize=8)
    for axis in axes[:, 2]:
        axis.set_ylabel("class, sub-class", fontsize=8)
    return figure


def one_of_each_class(data, num_classes, samples):
    """The first image of each of some classes, spread over all of them.

    Args:
        data: Images and labels as in `fit_prototypes`.
        num_classes: Number of classes.
        samples: Number of images, at most one of a class.

    Returns:
        `(images, labels)`: [N, H, W, C] and integers [N], in the order of the classes.
    """
    wanted = np.linspace(0, num_classes - 1, min(samples, num_classes)).astype(int)
    chosen = {}
    for _, images, labels in LabelledImages(data, num_classes).batches():
        for label in wanted:
            if label not in chosen and label in labels:
                chosen[label] = np.asarray(images[int((labels == label).argmax())])
        if len(chosen) == len(wanted):
            break
    return np.stack([chosen[label] for label in sorted(chosen)]), np.array(sorted(chosen))


def own_subclasses(prototypes, teacher, images, labels):
    """The sub-class of each location within the class of its image, as in training.

    Args:
        prototypes: `Prototypes` with an intermediate level.
        teacher: Their teacher.
        images: Images as the teacher takes them [B, H, W, C].
        labels: Their classes, integers [B].

    Returns:
        Integers [B, h, w] from 0 to `intermediate.subclasses - 1`, on the grid of the prototypes.

    Raises:
        ValueError: If the prototypes belong to another teacher.
    """
    intermediate = prototypes.intermediate
    layer = {"intermediate": prototypes.check_teacher(teacher)["intermediate"]}
    features = TeacherFeatures(teacher, layer, intermediate.pool_size, images.shape[1:])(images)
    points = intermediate.project(features["intermediate"])
    nearest_subclasses = NearestSubclasses(intermediate.centers, intermediate.num_classes)
    own, _ = nearest_subclasses(points, labels_of(points, labels))
    return (own % intermediate.subclasses).reshape(len(images), *intermediate.grid)


def _displayed(image):
    """An image of any range as RGB or gray levels in [0, 1]."""
    image = np.asarray(image, dtype="float64")
    low, high = image.min(), image.max()
    image = (image - low) / (high - low or 1)
    return image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)


def _overlay(axis, picture, subclasses, colors):
    """Sub-classes in their colors over a gray picture."""
    height, width = picture.shape[:2]
    gray = 0.55 + 0.45 * picture.mean(axis=-1, keepdims=True)
    rows = np.arange(height) * subclasses.shape[0] // height
    columns = np.arange(width) * subclasses.shape[1] // width
    axis.imshow(gray * colors[subclasses[np.ix_(rows, columns)]][..., :3])


def _histogram(axis, intermediate, label, subclass, share, class_names, colors):
    row = intermediate.subclass_scores[label * intermediate.subclasses + subclass]
    largest = np.argsort(-row, kind="stable")[:_BARS]
    positions = np.arange(len(largest))
    # The class of each bar, and the number of the sub-class in it.
    bars = [divmod(index, intermediate.subclasses) for index in largest]
    bar_colors = [colors[number] if owner == label else _OTHER_CLASS for owner, number in bars]
    axis.barh(positions, row[largest], color=bar_colors)
    names = [f"{class_name(owner, class_names)}, {number}" for owner, number in bars]
    axis.set_yticks(positions, names, fontsize=7, parse_math=False)
    axis.tick_params(axis="x", labelsize=7)
    axis.invert_yaxis()
    axis.set_title(f"target of {subclass} ({share:.0%} of the image)", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines["left"].set(color=colors[subclass], linewidth=5)
