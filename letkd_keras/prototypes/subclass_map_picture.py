import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from letkd_keras.prototypes.class_name import class_name
from letkd_keras.prototypes.teacher_features import TeacherFeatures

_BARS = 6
_HISTOGRAMS = 3


def draw_subclass_maps(intermediate, teacher, data, class_names=None, samples=6):
    """A `Figure` of some images, the sub-class of each location, and the rows of scores there."""
    images, labels, preprocess, _ = data
    chosen = _one_of_each(np.asarray(labels).reshape(-1), samples)
    images, labels = np.asarray(images[chosen]), np.asarray(labels[chosen]).reshape(-1)
    own = _own_subclasses(
        intermediate, teacher, images if preprocess is None else preprocess(images), labels
    )
    figure = Figure(figsize=(4.4 + 3.4 * _HISTOGRAMS, 2.3 * len(chosen)), layout="constrained")
    columns = 2 + _HISTOGRAMS
    axes = figure.subplots(
        len(chosen), columns, squeeze=False, width_ratios=[1, 1] + [1.2] * _HISTOGRAMS
    )
    for row, image, label, subclasses in zip(axes, images, labels, own, strict=True):
        picture = _displayed(image)
        row[0].imshow(picture)
        row[0].set_title(class_name(label, class_names), fontsize=10)
        _overlay(row[1], picture, subclasses)
        found, counts = np.unique(subclasses, return_counts=True)
        found = found[np.argsort(-counts, kind="stable")]
        for axis, subclass in zip(row[2:], found, strict=False):
            share = np.mean(subclasses == subclass)
            _histogram(axis, intermediate, label, subclass, share, class_names)
        for axis in (*row[:2], *row[2 + len(found) :]):
            axis.set_axis_off()
    axes[0, 1].set_title("sub-class", fontsize=10)
    return figure


def _one_of_each(labels, samples):
    """Numbers of the first image of each of some classes, spread over all of them."""
    classes, first = np.unique(labels, return_index=True)
    spread = np.linspace(0, len(classes) - 1, min(samples, len(classes))).astype(int)
    return first[spread]


def _own_subclasses(intermediate, teacher, images, labels):
    """Sub-class of each location within its image's class, [B, H, W]."""
    features = TeacherFeatures(teacher, [intermediate.layer], intermediate.pool_size)(images)[0]
    points = intermediate.project(features).reshape(len(images), -1, intermediate.centers.shape[1])
    centers = intermediate.centers.reshape(intermediate.num_classes, intermediate.subclasses, -1)
    distances = np.sum((points[:, :, None] - centers[labels][:, None]) ** 2, axis=-1)
    return distances.argmin(axis=-1).reshape(len(images), *intermediate.grid)


def _displayed(image):
    """An image of any range as RGB or grey levels in [0, 1]."""
    image = np.asarray(image, dtype="float64")
    low, high = image.min(), image.max()
    image = (image - low) / (high - low or 1)
    return image if image.shape[-1] == 3 else np.repeat(image[..., :1], 3, axis=-1)


def _overlay(axis, picture, subclasses):
    """Sub-classes in their colours over a grey picture."""
    height, width = picture.shape[:2]
    grey = 0.55 + 0.45 * picture.mean(axis=-1, keepdims=True)
    rows = np.arange(height) * subclasses.shape[0] // height
    columns = np.arange(width) * subclasses.shape[1] // width
    axis.imshow(grey * _subclass_colour(subclasses[np.ix_(rows, columns)])[..., :3])


def _histogram(axis, intermediate, label, subclass, share, class_names):
    row = intermediate.subclass_scores[label * intermediate.subclasses + subclass]
    largest = np.argsort(-row, kind="stable")[:_BARS]
    places = np.arange(len(largest))
    own = largest // intermediate.subclasses == label
    colours = [
        _subclass_colour(nearest % intermediate.subclasses) if mine else (0.75, 0.75, 0.75, 1)
        for nearest, mine in zip(largest, own, strict=True)
    ]
    axis.barh(places, row[largest], color=colours)
    names = [
        f"{class_name(nearest_class, class_names)} {nearest}"
        for nearest_class, nearest in zip(*divmod(largest, intermediate.subclasses), strict=True)
    ]
    axis.set_yticks(places, names, fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.invert_yaxis()
    axis.set_title(f"sub-class {subclass}, {share:.0%} of the image", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines["left"].set(color=_subclass_colour(subclass), linewidth=5)


def _subclass_colour(subclass):
    return colormaps["tab20"]((np.asarray(subclass) * 2 % 20 + np.asarray(subclass) // 10 % 2) / 20)
