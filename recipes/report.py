"""The report of a run: `report.md` and `curves.png` for a reader, `report.json` for a program."""

import json
from datetime import date
from importlib import metadata
from pathlib import Path

import keras

from letkd_keras.export import cost_report
from letkd_keras.files import save_figure, write_json, write_text
from letkd_keras.recipes import measures as measures_section
from letkd_keras.recipes import method_table, results, sizes


def write(experiment, folder, teacher, exported=None, costs=(), measures=None, classes=None):
    """Write the report of an experiment into its folder.

    Args:
        experiment: `Experiment`.
        folder: Path of the run folder.
        teacher: Result of the teacher.
        exported: `Exported` by format.
        costs: `CostRow`s of the exported student.
        measures: See `run`.
        classes: What `class_report.of_run` returned, or `None`.

    Returns:
        The report as a dictionary.
    """
    table = method_table.rows(experiment, folder, experiment.methods)
    packages = ("keras", keras.backend.backend(), "numpy")
    report = {
        "pair": experiment.pair,
        "data": experiment.data.name,
        "split": experiment.data.split,
        "train_examples": experiment.data.train_examples,
        "test_examples": experiment.data.test_examples,
        "epochs": experiment.student_schedule.epochs,
        "seed": experiment.seed,
        "date": date.today().isoformat(),
        "versions": {name: metadata.version(name) for name in packages},
        "teacher": teacher,
        "layers": {
            role: {level: network.layer(level) for level in ("penultimate", "intermediate")}
            for role, network in (("teacher", experiment.teacher), ("student", experiment.student))
        },
        "growth": experiment.growth,
        "templates": experiment.templates,
        "subclasses": experiment.subclasses,
        "sizes": experiment.sizes,
        "selection": results.selection(experiment.data.has_validation),
        "methods": {row["method"]: method_table.as_json(row) for row in table},
        "exported": {
            name: {**vars(result), "path": str(Path(result.path).relative_to(folder))}
            for name, result in (exported or {}).items()
        },
        "costs": [cost_report.as_json(row) for row in costs],
    }
    text = method_table.markdown(
        experiment, teacher, table, "![Accuracy and loss by epoch](curves.png)"
    )
    text += sizes.markdown(experiment, experiment.sizes)
    text += _exported(report["exported"]) + _costs(costs)
    if classes is not None:
        report["classes"], section = classes
        text += section
    if measures is not None:
        report["measures"] = measures_section.of_networks(experiment, folder, measures)
        text += "\n" + measures_section.markdown(experiment, report["measures"])
    _plot_curves(experiment, folder)
    if costs:
        cost_report.plot([row for row in costs if row.top1 is not None], folder / "costs.png")
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", f"{text}\n{method_table.made_with()}\n")
    # Through JSON, so that what is returned is what can be read again.
    return json.loads(json.dumps(report))


def _exported(exported):
    if not exported:
        return ""
    lines = ["## Exported student", "", "| format | file | bytes | compared with Keras |"]
    lines += ["|---|---|---|---|"]
    lines += [
        f"| {name} | `{result['path']}` | {result['bytes']:,} "
        f"| max difference {result['max_difference']:.1e}, "
        f"top-1 agreement {100 * result['agreement']:.1f}% |"
        for name, result in exported.items()
    ]
    return "\n".join(["", *lines, ""])


def _costs(rows):
    if not rows:
        return ""
    return (
        f"\n## Size and latency of the student\n\n{cost_report.table(rows)}\n"
        "`plain` is the student without KD layers; its top-1 is that of the student trained alone. "
        "`folded` is what is exported. Latencies are those of TFLite on this machine, the shortest "
        "of several runs.\n\n![Accuracy against size, multiply-adds and latency](costs.png)\n"
    )


def _plot_curves(experiment, folder):
    """Accuracy and training loss of every training by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    files = sorted(folder.glob("teacher/metrics.csv"))
    for method in experiment.methods:
        files += sorted(folder.glob(f"{method}/seed*/metrics.csv"))
    colors = {}
    for file in files:
        name = file.relative_to(folder).parts[0]
        first = name not in colors
        color = colors.setdefault(name, f"C{len(colors)}")
        rows = results.read_metrics(file)
        epochs = [row["epoch"] + 1 for row in rows]
        style = {"color": color, "label": name if first else None, "alpha": 1 if first else 0.4}
        accuracy.plot(epochs, [100 * row["val_accuracy"] for row in rows], **style)
        loss.plot(epochs, [row.get("task_loss", row["loss"]) for row in rows], **style)
    split = "validation" if experiment.data.has_validation else "test"
    accuracy.set(xlabel="epoch", ylabel=f"{split} accuracy (%)")
    loss.set(xlabel="epoch", ylabel="cross-entropy in training", yscale="log")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
        if files:
            axes.legend()
    figure.suptitle(f"{experiment.pair} on {experiment.data.name}")
    save_figure(figure, folder / "curves.png", dpi=110)
