"""What lies behind the accuracies of a grid: agreement, divergences, probes, crossing curves."""

import itertools
import json
from collections import defaultdict

import numpy as np

from letkd_keras.commands.markdown import markdown_table, markdown_text
from letkd_keras.files import save_figure, write_json, write_text
from letkd_keras.functional import load_model
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.reports import method_style, method_table
from letkd_keras.recipes.steps.teacher import train_teacher
from letkd_keras.recipes.studies import probe
from letkd_keras.recipes.trainings import accuracies, training_folder
from letkd_keras.recipes.trainings.predictions import predicted_classes

# Epochs over which an accuracy is averaged before two methods are compared: single epochs differ
# by a point or more at the first learning rate. In short trainings it is a twentieth of the epochs.
_SMOOTHED = 5


def write(experiment, folder):
    """Measure the finished trainings of a grid and write `explain.md`, `.json` and `.png`.

    Args:
        experiment: `Experiment` of the grid, with its data.
        folder: Path of the grid's folder.

    Returns:
        Dictionary of `methods` (a row of numbers for each training) and `crossings`.

    Raises:
        ValueError: If no student is finished, there is no teacher, or a file is damaged.
    """
    method_table.warn_about_unknown(folder)
    trainings = _finished(folder)
    if not trainings:
        raise ValueError(f"No student is finished in {folder}.")
    if experiment.teacher_phases and training_folder.finished(folder / "teacher") is None:
        raise ValueError(f"`folder` must have a finished teacher. Received: none in {folder}.")
    teacher, _ = train_teacher(experiment, folder)
    teacher_classes = predicted_classes(teacher, experiment.data)
    rows = [
        _row(method, seed, training, teacher_classes, experiment.data)
        for method, seed, training in trainings
    ]
    curves = _curves(trainings)
    window = window_of(max(runs.shape[1] for runs in curves.values()))
    crossings = all_crossings({name: runs.mean(0) for name, runs in curves.items()}, window)
    explanation = {"methods": rows, "crossings": crossings}
    write_json(folder / "explain.json", explanation)
    _plot(experiment, curves, window, folder / "explain.png")
    write_text(folder / "explain.md", _markdown(experiment, rows, crossings, window))
    return json.loads(json.dumps(explanation))


def _finished(folder):
    """`(method, seed, path)` of the finished students, in the order of the table of methods."""
    found = []
    for method, seed, training in training_folder.student_trainings(folder):
        result = training_folder.finished(training) if methods.is_known(method) else None
        if result is not None:
            training_folder.check_student(training, result)
            found.append((method, seed, training))
    return sorted(found, key=lambda entry: methods.position(entry[0]))


def _row(method, seed, training, teacher_classes, data):
    student = load_model(training / "student.keras", "student")
    last = training_folder.read_metrics(training / "metrics.csv")[-1]
    row = {
        "method": method,
        "seed": seed,
        "accuracy": accuracies.accuracy_of(training_folder.finished(training)),
        "agreement": 100 * float(np.mean(predicted_classes(student, data) == teacher_classes)),
        "kl_penultimate": last.get("kl_penultimate"),
        "kl_intermediate": last.get("kl_intermediate"),
        "x": None,
        "x_hat": None,
    }
    if "kd_intermediate" in kd_layers_of(student):
        row |= probe.lda_accuracies(student, data)
    return row


def _curves(trainings):
    """Accuracies in percent by epoch, [trials, epochs that all have], of every method."""
    curves = defaultdict(list)
    for method, _, training in trainings:
        rows = training_folder.read_metrics(training / "metrics.csv")
        curves[method].append([100 * row["val_accuracy"] for row in rows])
    # A callback may have ended some of the trials earlier.
    ends = {method: min(map(len, runs)) for method, runs in curves.items()}
    return {
        method: np.array([run[: ends[method]] for run in runs]) for method, runs in curves.items()
    }


# === Where two curves cross ===


def window_of(epochs):
    """Number of epochs over which the accuracies of so many epochs are averaged."""
    return max(1, min(_SMOOTHED, epochs // 20))


def all_crossings(curves, window):
    """For every two methods, the epoch from which the one that ends higher stays ahead.

    Args:
        curves: Mean accuracies by epoch, [epochs], of every method.
        window: See `crossing`.

    Returns:
        List of dictionaries: `ahead`, `behind`, `epoch` (counted from 1).
    """
    found = []
    for first, second in itertools.combinations(curves, 2):
        for ahead, behind in ((first, second), (second, first)):
            epoch = crossing(curves[ahead], curves[behind], window)
            if epoch is not None:
                found.append({"ahead": ahead, "behind": behind, "epoch": epoch})
    return found


def crossing(ahead, behind, window):
    """The epoch from which one curve stays above another one until the end of the shorter one.

    Both are averaged over a window of epochs that ends with the epoch.

    Args:
        ahead: Numbers by epoch, [epochs].
        behind: Numbers by epoch, [epochs].
        window: Its number of epochs.

    Returns:
        The epoch, counted from 1, or `None` if the curve does not end above the other one.
    """
    epochs = min(len(ahead), len(behind))
    above = trailing_mean(ahead[:epochs], window) > trailing_mean(behind[:epochs], window)
    if not above[-1]:
        return None
    below = np.flatnonzero(~above)
    return int(below[-1]) + 2 if len(below) else 1


def trailing_mean(values, window):
    """Means over the last `window` numbers, of fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


# === Text and picture ===


def _markdown(experiment, rows, crossings, window):
    columns = {
        "accuracy": "test top-1",
        "agreement": "agreement with the teacher",
        "kl_penultimate": "KL, penultimate",
        "kl_intermediate": "KL, intermediate",
        "x": "probe, x",
        "x_hat": "probe, x_hat",
    }
    table = []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        cells = [
            accuracies.mean_text(
                *accuracies.mean_and_std(row[key] for row in own if row[key] is not None)
            )
            for key in columns
        ]
        table.append([methods.title(name), str(len(own)), *cells])
    ahead = [
        f"- {methods.title(entry['ahead'])} stays ahead of {methods.title(entry['behind'])} from "
        f"epoch {entry['epoch']} on."
        for entry in crossings
    ]
    averaged = f"Accuracies averaged over the trials{f' and over {window} epochs' * (window > 1)}:"
    return markdown_text(
        f"# {experiment.pair} on {experiment.data.name}, explained",
        markdown_table(["method", "trials", *columns.values()], table),
        "Mean ± standard deviation over the trials, on the test images. Agreement is the share of "
        "images for which student and teacher name the same class, in percent. The KL divergences "
        "are those of the last epoch's training images. The probes are linear discriminant "
        "analyses of the intermediate KD layer's input x and output x_hat.",
        "![Accuracy by epoch](explain.png)",
        *([averaged, "\n".join(ahead)] if ahead else []),
    )


def _plot(experiment, curves, window, path):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    for method, runs in curves.items():
        epochs = np.arange(1, runs.shape[1] + 1)
        smooth = np.array([trailing_mean(run, window) for run in runs])
        options = method_style.style(method)
        axes.plot(epochs, smooth.mean(0), label=methods.title(method), **options)
        axes.fill_between(
            epochs, smooth.min(0), smooth.max(0), color=options["color"], alpha=0.2, linewidth=0
        )
    split = "validation" if experiment.data.has_validation else "test"
    quantized = experiment.quantization_aware_schedule is not None
    axes.set(
        xlabel="epoch under fake quantization" if quantized else "epoch",
        ylabel=f"{split} accuracy (%){f', mean over {window} epochs' * (window > 1)}; "
        "range over the trials",
    )
    axes.set_title(f"{experiment.pair} on {experiment.data.name}", parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, path, dpi=110)
