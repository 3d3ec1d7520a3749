"""A trained student's values, x and x_hat in two dimensions, by t-SNE."""

import numpy as np

from letkd_keras.commands.palette import category_colors
from letkd_keras.files import open_atomic, save_figure
from letkd_keras.functional import load_model
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.levels import LEVELS
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.studies.layer_features import pooled_features
from letkd_keras.recipes.trainings import training_folder

_IMAGES = 2000
_CLASSES = 10
_PERPLEXITY = 30
_LAYERS = {f"kd_{level}": f"{level} layer" for level in LEVELS}
_PANELS = {"value": "value", "x": "input x", "x_hat": "output x_hat"}


def embed(features, seed=0):
    """Positions [N, 2] of features [N, C] by scikit-learn's t-SNE."""
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(np.asarray(features, "float32"))


def write(experiment, out, method):
    """Draw the first finished student of a method: `tsne.png`, and the positions in `tsne.npz`.

    For each KD layer: its value x_hat - x, its input x and its output x_hat, averaged over the grid
    of each test image, for the images of at most ten classes. The value is left out where alpha
    is 0.

    Args:
        experiment: `Experiment` of the grid.
        out: Path of the grid's folder.
        method: Name of a method with KD layers.

    Returns:
        Path of the picture.

    Raises:
        ValueError: If no such student is finished.
    """
    folders = [training_folder.student_folder(out, method, seed) for seed in experiment.seeds]
    finished = [folder for folder in folders if training_folder.finished(folder) is not None]
    if not finished:
        raise ValueError(f"No student by {method} is finished in {out}; its error.txt says why.")
    student = load_model(finished[0] / "student.keras", "student")
    layers = kd_layers_of(student)
    # At least one image of each class.
    images = min(max(_IMAGES, experiment.data.num_classes), experiment.data.test_examples)
    data = experiment.data.subset(test_examples=images, seed=experiment.seed)
    positions = {}
    for name in layers:
        features = pooled_features(student, name, data, "test")
        chosen = features["labels"] < _CLASSES
        x, x_hat = features["x"][chosen], features["x_hat"][chosen]
        panels = {"value": x_hat - x, "x": x, "x_hat": x_hat}
        if layers[name].alpha == 0:
            del panels["value"]
        for panel, values in panels.items():
            positions[f"{name}:{panel}"] = embed(values, experiment.seed)
        positions["labels"] = features["labels"][chosen]
    with open_atomic(out / "tsne.npz") as file:
        np.savez(file, **positions)
    title = f"{methods.title(method)}, {experiment.pair} on {experiment.data.name}"
    figure = draw(positions, list(layers), experiment.data.class_names, title)
    save_figure(figure, out / "tsne.png", dpi=110)
    return out / "tsne.png"


def draw(positions, layers, class_names, title):
    """A `Figure` with a row for each layer and a column for value, x and x_hat.

    Args:
        positions: Positions [N, 2] by `LAYER:PANEL`, and `labels` [N].
        layers: Names of the layers.
        class_names: Names of the classes.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure

    colors = category_colors(_CLASSES)
    figure = Figure(figsize=(4 * len(_PANELS), 4 * len(layers) + 0.8), layout="constrained")
    axes = figure.subplots(len(layers), len(_PANELS), squeeze=False)
    for row, layer in zip(axes, layers, strict=True):
        for axis, panel in zip(row, _PANELS, strict=True):
            axis.set(xticks=[], yticks=[], title=f"{_LAYERS.get(layer, layer)}: {_PANELS[panel]}")
            axis.set(xlabel="first axis of t-SNE", ylabel="second axis of t-SNE")
            if f"{layer}:{panel}" not in positions:
                axis.set_axis_off()
                continue
            for label in np.unique(positions["labels"]):
                points = positions[f"{layer}:{panel}"][positions["labels"] == label]
                axis.scatter(*points.T, s=6, color=colors[label], label=str(class_names[label]))
    handles, labels = axes[0, -1].get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, title="class", loc="outside lower center", ncols=5, markerscale=2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.suptitle(title, parse_math=False)
    return figure
