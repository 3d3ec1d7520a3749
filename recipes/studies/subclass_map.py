"""Each location's sub-class beside the histogram of its target over all sub-classes (figure 2)."""

import numpy as np

from letkd_keras.commands.log_file import recorded
from letkd_keras.commands.palette import category_colors
from letkd_keras.data import NumberedBatches
from letkd_keras.files import save_figure
from letkd_keras.prototypes import pictures
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.steps.opened_folder import opened
from letkd_keras.recipes.steps.prototypes import prototypes_of
from letkd_keras.recipes.steps.teacher import train_teacher

_IMAGES = 6
_OTHER_CLASS = (0.6, 0.6, 0.6, 1)
_MOST_NAMES = 120


def write(experiment, out):
    """Fit the teacher's prototypes and draw `subclass_map.png`.

    Args:
        experiment: `Experiment`.
        out: Run folder: new, or an earlier one's with the same settings.

    Returns:
        Path of the picture.

    Raises:
        ValueError: If the networks have no intermediate layer.
    """
    with recorded() as messages:
        experiment = prepare(experiment)
    if "intermediate" not in experiment.levels:
        raise ValueError(
            "A map of sub-classes needs an intermediate layer: name one with "
            "`teacher_intermediate_layer` and `student_intermediate_layer`."
        )
    with opened(experiment, out, messages) as folder:
        teacher, _ = train_teacher(experiment, folder)
        prototypes = prototypes_of(experiment, teacher, folder, experiment.levels)
        data = experiment.data
        batches = NumberedBatches(data, 256, "test")
        images, labels = pictures.one_of_each_class(batches, data.num_classes, _IMAGES)
        subclasses = pictures.own_subclasses(prototypes, teacher, images, labels)
        figure = draw(images, labels, subclasses, prototypes.intermediate, data)
        save_figure(figure, folder / "subclass_map.png", dpi=110)
    return folder / "subclass_map.png"


def draw(images, labels, subclasses, intermediate, data):
    """A `Figure` with a row for each image: image, sub-classes, histogram of the commonest target.

    Args:
        images: Normalized images [B, H, W, C].
        labels: Their classes [B].
        subclasses: Sub-class of each location within the class of its image, integers [B, h, w].
        intermediate: `IntermediatePrototypes`.
        data: The data set, for its scale of pixels and its class names.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.2 * len(images) + 0.8), layout="constrained")
    axes = figure.subplots(len(images), 3, squeeze=False, width_ratios=[1, 1, 4])
    own_colors = category_colors(intermediate.subclasses)
    per_class = intermediate.subclasses
    for row, image, label, own in zip(axes, images, labels, subclasses, strict=True):
        pixels = np.clip(image * np.asarray(data.std) + np.asarray(data.mean), 0, 1)
        row[0].imshow(pixels if pixels.shape[-1] == 3 else pixels[..., 0], cmap="gray")
        row[0].set_title(str(data.class_names[label]), fontsize=10, parse_math=False)
        row[1].imshow(own, cmap=ListedColormap(own_colors), vmin=-0.5, vmax=per_class - 0.5)
        commonest = np.bincount(own.ravel(), minlength=per_class).argmax()
        scores = intermediate.subclass_scores[label * per_class + commonest]
        colors = np.full((len(scores), 4), _OTHER_CLASS)
        colors[label * per_class : (label + 1) * per_class] = own_colors
        row[2].bar(np.arange(len(scores)), scores, width=1, color=colors)
        row[2].set_title(f"target of sub-class {commonest} over all sub-classes", fontsize=9)
        row[2].margins(x=0)
        row[2].set_ylabel("target", fontsize=8)
        # All classes have their names, unless these would be too small to read.
        shown = np.arange(0, data.num_classes, -(-data.num_classes // _MOST_NAMES))
        row[2].set_xticks(
            per_class * (shown + 0.5) - 0.5,
            [str(data.class_names[class_]) for class_ in shown],
            rotation=90 if data.num_classes > 10 else 0,
            fontsize=min(8, 500 / len(shown)),
            parse_math=False,
        )
        for axis in row[:2]:
            axis.set(xticks=[], yticks=[])
    axes[0, 1].set_title("sub-classes", fontsize=10)
    axes[-1, 2].set_xlabel("sub-classes, class by class")
    pictures.subclass_legend(axes[0, 0], own_colors, _OTHER_CLASS)
    return figure
