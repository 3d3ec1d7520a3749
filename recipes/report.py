"""What a run found, for a person (`report.md`, `curves.png`) and for a program (`report.json`)."""

import platform
import statistics
from datetime import date
from importlib import metadata
from pathlib import Path

import keras

from letkd_keras.export import cost_report
from letkd_keras.recipes import methods
from letkd_keras.recipes.run_folder import write_json, write_text
from letkd_keras.recipes.training import read_metrics


def write(experiment, folder, teacher, results, exported, costs=()):
    """Write the report of an experiment into its folder.

    Args:
        experiment: `Experiment`.
        folder: `RunFolder`.
        teacher: Result of the teacher.
        results: Results of the trials by method.
        exported: What `export_student` returned, by format.
        costs: `CostRow`s of the exported student.

    Returns:
        The report as a dictionary.
    """
    report = {
        "pair": experiment.pair.name,
        "data": experiment.data.name,
        "split": experiment.data.split,
        "train_examples": experiment.data.train_examples,
        "test_examples": experiment.data.test_examples,
        "epochs": experiment.student_schedule.epochs,
        "seed": experiment.seed,
        "date": date.today().isoformat(),
        "versions": {
            name: metadata.version(name) for name in ("keras", keras.backend.backend(), "numpy")
        },
        "machine": platform.machine(),
        "teacher": teacher,
        "methods": {
            method: _method(method, trials, experiment.pair) for method, trials in results.items()
        },
        "exported": {kind: _plain(result, folder) for kind, result in exported.items()},
        "costs": [cost_report.as_json(row) for row in costs],
    }
    _plot(experiment, folder)
    if costs:
        measured = [row for row in costs if row.top1 is not None]
        cost_report.plot(measured, folder / "costs.png")
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", _markdown(report, _costs(costs)))
    return report


def _method(method, trials, pair):
    last = [trial["accuracy_last"] for trial in trials]
    return {
        "title": methods.title(method),
        "accuracy_last_mean": statistics.mean(last),
        "accuracy_last_std": statistics.stdev(last) if len(last) > 1 else None,
        "accuracy_best_mean": statistics.mean(trial["accuracy_best"] for trial in trials),
        "published": pair.published.get(method),
        "parameters": trials[0]["parameters"],
        "parameters_without_kd_layers": trials[0]["parameters_plain"],
        "seconds_mean": statistics.mean(trial["seconds"] for trial in trials),
        "trials": trials,
    }


def _plain(result, folder):
    """What an export gives, with the path as it is seen from the run folder."""
    return {**vars(result), "path": str(Path(result.path).relative_to(folder.path))}


def _costs(rows):
    """What the exported student costs, in Markdown."""
    if not rows:
        return ""
    return (
        f"## What the student costs\n\n{cost_report.table(rows)}\n"
        "Plain is the student without KD layers, trained alone where a top-1 is given; folded is "
        "what is exported. Latencies are those of TFLite on this machine, the shortest of several "
        "runs.\n\n![Accuracy against size, multiply-adds and latency](costs.png)\n"
    )


def _markdown(report, costs):
    teacher = report["teacher"]
    lines = [
        f"# {report['pair']} on {report['data']}",
        "",
        f"{report['train_examples']} training and {report['test_examples']} test images "
        f"({report['split']}); {report['epochs']} epochs; seed {report['seed']}; {report['date']}.",
        "",
        f"Teacher: {teacher['accuracy_last']:.2f}% top-1, {teacher['parameters']:,} parameters.",
        "",
        "| method | top-1, last epoch | top-1, best epoch | published "
        "| parameters | without KD layers | training time |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(method) for method in report["methods"].values()]
    lines += [
        "",
        "The best epoch is chosen on the test set, as the papers do; the last epoch is not chosen.",
        "",
        "![Accuracy and loss by epoch](curves.png)",
        "",
    ]
    if report["exported"]:
        lines += ["## Exported student", "", "| format | file | bytes | agrees with Keras |"]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {kind} | `{result['path']}` | {result['bytes']:,} "
            f"| max difference {result['max_difference']:.1e}, "
            f"top-1 agreement {100 * result['agreement']:.1f}% |"
            for kind, result in report["exported"].items()
        ]
        lines += [""]
    if costs:
        lines += [costs]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines += [f"Made with {versions} on {report['machine']}.", ""]
    return "\n".join(lines)


def _row(method):
    spread = method["accuracy_last_std"]
    spread = f" ± {spread:.2f} ({len(method['trials'])} trials)" if spread is not None else ""
    published = f"{method['published']:.2f}" if method["published"] else "-"
    return (
        f"| {method['title']} | {method['accuracy_last_mean']:.2f}%{spread} "
        f"| {method['accuracy_best_mean']:.2f}% | {published} | {method['parameters']:,} "
        f"| {method['parameters_without_kd_layers']:,} | {method['seconds_mean']:.0f} s |"
    )


def _plot(experiment, folder):
    """Test accuracy and training losses of every training by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    files = sorted(folder.path.glob("teacher/metrics.csv"))
    for method in experiment.methods:
        files += sorted(folder.path.glob(f"{method}/seed*/metrics.csv"))
    colours = {}
    for file in files:
        name = file.relative_to(folder.path).parts[0]
        first = name not in colours
        colour = colours.setdefault(name, f"C{len(colours)}")
        rows = read_metrics(file)
        epochs = [row["epoch"] + 1 for row in rows]
        style = {"color": colour, "label": name if first else None, "alpha": 1 if first else 0.4}
        accuracy.plot(epochs, [100 * row["val_accuracy"] for row in rows], **style)
        loss.plot(epochs, [row.get("task_loss", row["loss"]) for row in rows], **style)
    accuracy.set(xlabel="epoch", ylabel="test accuracy (%)")
    loss.set(xlabel="epoch", ylabel="cross-entropy in training", yscale="log")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{experiment.pair.name} on {experiment.data.name}")
    aside = folder / ".curves.part.png"
    figure.savefig(aside, dpi=110)
    aside.replace(folder / "curves.png")
