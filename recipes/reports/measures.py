"""Further measures of the networks of a run, such as top-5 accuracy."""

import numpy as np

from letkd_keras.commands.markdown import markdown_table, markdown_text
from letkd_keras.functional import load_model
from letkd_keras.recipes.reports import method_style, method_table
from letkd_keras.recipes.trainings import training_folder
from letkd_keras.recipes.trainings.predictions import predictions


def measure_networks(experiment, folder, teacher, measures):
    """Evaluate the teacher and all students once more.

    Args:
        experiment: `Experiment`.
        folder: Path of the run folder.
        teacher: Trained teacher.
        measures: Function from logits [N, classes] and labels [N] of the test images to a
            dictionary of numbers by name.

    Returns:
        By network, `"teacher"` or the name of a method, a list of such dictionaries: one for each
        trial.
    """
    measured = {"teacher": [_measure(teacher, experiment.data, measures)]}
    for row in method_table.rows(experiment, folder):
        folders = [
            training_folder.student_folder(folder, row["method"], result["seed"])
            for result in row["results"]
        ]
        measured[row["method"]] = [
            _measure(load_model(training / "student.keras", "student"), experiment.data, measures)
            for training in folders
        ]
    return measured


def top_accuracy(logits, labels, k=1):
    """Percentage of the images whose class is among the `k` most likely ones.

    Args:
        logits: [N, classes].
        labels: Integers [N].
        k: How many classes count; all of them, if there are fewer.

    Returns:
        A number from 0 to 100.
    """
    # Of equally likely classes the first ones count, so that a network with equal logits is at
    # chance.
    likeliest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return 100 * float(np.mean(np.any(likeliest == labels[:, None], axis=1)))


def _measure(model, data, measures):
    logits, labels = map(np.concatenate, zip(*predictions(model, data), strict=True))
    return measures(logits.astype("float32"), labels)


def markdown(experiment, measured):
    """The measures as a table in Markdown, with published top-1 and top-5 accuracies.

    Args:
        experiment: `Experiment`.
        measured: What `measure_networks` returned.

    Returns:
        A text.
    """
    names = list(measured["teacher"][0])
    fields = {"top-1": "top1", "top-5": "top5"}
    heads, table = ["network"], []
    for name in names:
        heads += [name, "published"] if name in fields else [name]
    for network, trials in measured.items():
        cells = [method_style.title(network)]
        published = experiment.published(network)
        for name in names:
            cells.append(" / ".join(f"{trial[name]:.2f}" for trial in trials))
            if name in fields:
                number = getattr(published, fields[name], None)
                cells.append("-" if number is None else f"{number:.2f}")
        table.append(cells)
    return markdown_text("## Test accuracies in detail", markdown_table(heads, table))
