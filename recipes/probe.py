"""How well a linear classifier reads the classes before and behind an intermediate KD layer."""

import statistics

import keras
import numpy as np

from letkd_keras.functional.graph import nodes
from letkd_keras.recipes import methods, stages
from letkd_keras.recipes.run_folder import write_json, write_text
from letkd_keras.recipes.training import finished

# The supplement's, of resnet56-resnet20 on CIFAR-100: alpha 0, where both are one, and 1.
PUBLISHED = {"letkd_i0p0": {"x": 52.71, "x_hat": 52.71}, "letkd2": {"x": 51.71, "x_hat": 56.36}}


def lda_accuracies(student, data):
    """Test accuracies of linear discriminant analysis at the intermediate tap.

    Fitted on features of the training images without augmentation, each averaged over its grid,
    with scikit-learn's default (SVD) solver.

    Args:
        student: Student with a KD layer named `kd_intermediate`.
        data: `ImageData`.

    Returns:
        `{"x": accuracy, "x_hat": accuracy}` in percent: of what the layer reads and of what it
        puts out.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    layer = student.get_layer("kd_intermediate")
    node = next(node for node in nodes(student) if node.operation is layer)
    model = keras.Model(
        student.inputs, {"x": node.input_tensors[0], "x_hat": node.output_tensors[0]}
    )
    axes = (2, 3) if layer.data_format == "channels_first" else (1, 2)
    features = {split: _pooled(model, data, split, axes) for split in ("train", "test")}
    accuracies = {}
    for name in ("x", "x_hat"):
        (train, train_labels), (test, test_labels) = (
            (features[split][name], features[split]["labels"]) for split in ("train", "test")
        )
        probe = LinearDiscriminantAnalysis().fit(train, train_labels)
        accuracies[name] = 100 * probe.score(test, test_labels)
    return accuracies


def _pooled(model, data, split, axes):
    found = {"x": [], "x_hat": [], "labels": []}
    for images, labels in data.evaluation_batches(256, split):
        for name, features in model.predict_on_batch(images).items():
            found[name].append(features.mean(axes))
        found["labels"].append(np.asarray(labels))
    return {name: np.concatenate(values) for name, values in found.items()}


def write(experiment, out, names):
    """Probe the finished students of a grid and write `probe.md` and `probe.json`.

    Args:
        experiment: `Experiment` of the grid.
        out: Folder of the grid.
        names: Methods with a KD layer at the intermediate tap.

    Returns:
        List of dictionaries: `method`, `seed`, `x`, `x_hat`.
    """
    rows = []
    for name in names:
        for seed in experiment.seeds:
            place = stages.student_folder(out, name, seed)
            if finished(place) is None:
                continue
            student = keras.models.load_model(place / "student.keras", compile=False)
            rows.append({"method": name, "seed": seed, **lda_accuracies(student, experiment.data)})
    write_json(out / "probe.json", rows)
    write_text(out / "probe.md", _markdown(experiment, rows, names))
    return rows


def _markdown(experiment, rows, names):
    published = PUBLISHED if "letkd_i0p0" in experiment.pair.published_ablation else {}
    lines = [
        f"# LDA probe at the intermediate tap, {experiment.pair.name} on {experiment.data.name}",
        "",
        "| method | trials | x | published | x_hat | published |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        own = [row for row in rows if row["method"] == name]
        cells = [methods.title(name), str(len(own))]
        for key in ("x", "x_hat"):
            cells.append(f"{statistics.mean(row[key] for row in own):.2f}" if own else "-")
            cells.append(f"{published[name][key]:.2f}" if name in published else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Top-1 in percent on the test images.", ""])
