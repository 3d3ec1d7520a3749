"""How well a linear classifier separates the classes before and behind an intermediate KD layer."""

from letkd_keras.commands.markdown import markdown_table, markdown_text
from letkd_keras.files import write_json, write_text
from letkd_keras.functional import load_model
from letkd_keras.recipes.experiments import methods, published
from letkd_keras.recipes.studies.layer_features import pooled_features
from letkd_keras.recipes.trainings import accuracies, training_folder


def lda_accuracies(student, data):
    """Test accuracies of linear discriminant analysis at the intermediate KD layer.

    It is fitted on features of the training images without augmentation, averaged over the grid of
    each image, with scikit-learn's default solver (SVD).

    Args:
        student: Student with a KD layer named `kd_intermediate`.
        data: The data set.

    Returns:
        `{"x": accuracy, "x_hat": accuracy}` in percent: of the layer's input and of its output.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    train, test = (
        pooled_features(student, "kd_intermediate", data.labelled(), split)
        for split in ("train", "test")
    )
    scores = {}
    for name in ("x", "x_hat"):
        probe = LinearDiscriminantAnalysis().fit(train[name], train["labels"])
        scores[name] = 100 * probe.score(test[name], test["labels"])
    return scores


def write(experiment, out):
    """Probe the finished students of a grid and write `probe.md` and `probe.json`.

    Args:
        experiment: `Experiment` of the grid, whose methods have an intermediate KD layer.
        out: Path of the grid's folder.

    Returns:
        List of dictionaries: `method`, `seed`, `x`, `x_hat`.
    """
    rows = []
    for name in experiment.methods:
        for seed in experiment.seeds:
            training = training_folder.student_folder(out, name, seed)
            if training_folder.finished(training) is not None:
                student = load_model(training / "student.keras", "student")
                scores = lda_accuracies(student, experiment.data)
                rows.append({"method": name, "seed": seed, **scores})
    write_json(out / "probe.json", rows)
    write_text(out / "probe.md", _markdown(experiment, rows))
    return rows


def _markdown(experiment, rows):
    # Where the method's accuracy is published for this pair and data, the probe's may be, too.
    known = {}
    if experiment.published("letkd2"):
        known = published.probes_of(experiment.spec.dataset, experiment.pair)
    heads, table = ["method", "trials", "x", "published", "x_hat", "published"], []
    for name in experiment.methods:
        own = [row for row in rows if row["method"] == name]
        cells = [methods.title(name), str(len(own))]
        for key in ("x", "x_hat"):
            cells.append(accuracies.mean_text(*accuracies.mean_and_std(row[key] for row in own)))
            accuracy = known.get(name, {}).get(key)
            cells.append("-" if accuracy is None else f"{accuracy.top1:.2f}")
        table.append(cells)
    return markdown_text(
        f"# LDA probe at the intermediate KD layer, {experiment.pair} on {experiment.data.name}",
        markdown_table(heads, table),
        "Top-1 in percent on the test images.",
    )
