"""Further measures of a finished run's networks, such as top-5 accuracy, in its report."""

import json

import keras
import numpy as np

from letkd_keras.recipes import methods
from letkd_keras.recipes.run_folder import write_json, write_text
from letkd_keras.recipes.stages import student_folder


def add_measures(report, experiment, run_dir, measures, published=None):
    """Evaluate teacher and students of the last epoch once more, and add to the report.

    Args:
        report: What `experiment.run` returned; it is left as it was.
        experiment: `Experiment`.
        run_dir: Its run folder, with `report.json` and `report.md`.
        measures: Function from logits [N, classes] and labels [N] of the test images to a
            dictionary of numbers by name.
        published: Dictionary by measure of published numbers by method, to be shown beside.

    Returns:
        The report with `measures`: by network a list of dictionaries, one a trial.
    """
    published = published or {}
    teacher = run_dir / "teacher" / "teacher.keras"
    if experiment.teacher.is_file:
        teacher = experiment.teacher.name
    found = {"teacher": [_measure(teacher, experiment, measures)]}
    for method in experiment.methods:
        found[method] = [
            _measure(
                student_folder(run_dir, method, seed) / "student.keras",
                experiment,
                measures,
            )
            for seed in experiment.seeds
        ]
    # Through JSON, so that the report returned is the one that can be read again.
    report = json.loads(json.dumps({**report, "measures": found}))
    write_json(run_dir / "report.json", report)
    text = (run_dir / "report.md").read_text()
    write_text(run_dir / "report.md", f"{text}\n{_markdown(found, published)}")
    return report


def top_accuracy(logits, labels, k=1):
    """Share in percent of the images whose class is among the `k` most likely.

    Args:
        logits: [N, classes].
        labels: Integers [N].
        k: How many classes count; all of them, if there are fewer.

    Returns:
        A number from 0 to 100.
    """
    # Ranked below every class that is likelier, and of equal ones below those before it.
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1])[None] < labels[:, None]
    rank = np.sum((logits > own) | ((logits == own) & before), axis=1)
    return 100 * float(np.mean(rank < k))


def _measure(file, experiment, measures):
    model = keras.models.load_model(file, compile=False)
    logits, labels = [], []
    for images, batch_labels in experiment.data.evaluation_batches(256):
        logits.append(np.asarray(model.predict_on_batch(images), "float32"))
        labels.append(np.asarray(batch_labels))
    return measures(np.concatenate(logits), np.concatenate(labels))


def _markdown(found, published):
    names = list(found["teacher"][0])
    columns = []
    for name in names:
        columns += [name, "published"] if name in published else [name]
    lines = ["## The last epoch in detail", ""]
    lines += [f"| network | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for network, trials in found.items():
        cells = ["teacher" if network == "teacher" else methods.title(network)]
        for name in names:
            cells.append(" / ".join(f"{trial[name]:.2f}" for trial in trials))
            if name in published:
                number = published[name].get(network)
                cells.append("-" if number is None else f"{number:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
