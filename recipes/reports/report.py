"""The report of a run: `report.md` and `curves.png` for a reader, `report.json` for a program."""

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path

from letkd_keras.commands import palette
from letkd_keras.commands.markdown import markdown_table, markdown_text
from letkd_keras.export import cost_report
from letkd_keras.files import save_figure, write_json, write_text
from letkd_keras.levels import LEVELS
from letkd_keras.recipes.reports import measures, method_style, method_table
from letkd_keras.recipes.trainings import accuracies, training_folder
from letkd_keras.versions import versions


def write(experiment, folder, teacher, exported, costs, measured, classes):
    """Write the report of an experiment into its folder.

    Args:
        experiment: `Experiment`.
        folder: Path of the run folder.
        teacher: Result of the teacher.
        exported: `Exported` by format.
        costs: `CostRow`s of the exported student, and the number of test images of their top-1.
        measured: What `measures.measure_networks` returned, or `None`.
        classes: What `class_report.of_run` returned.

    Returns:
        The report as a dictionary.
    """
    table = method_table.rows(experiment, folder)
    (costs, cost_images), (class_rows, class_section) = costs, classes
    report = {
        "pair": experiment.pair,
        "data": experiment.data.name,
        "split": experiment.data.split,
        "train_examples": experiment.data.train_examples,
        "test_examples": experiment.data.test_examples,
        "epochs": experiment.student_schedule.epochs,
        "seed": experiment.seed,
        "date": date.today().isoformat(),
        "versions": versions(),
        "teacher": teacher,
        "layers": {
            role: {level: network.layer(level) for level in LEVELS}
            for role, network in (("teacher", experiment.teacher), ("student", experiment.student))
        },
        "growth": experiment.growth,
        "templates": experiment.templates,
        "subclasses": experiment.subclasses,
        "sizes": experiment.sizes,
        "selection": accuracies.selection(experiment.data.has_validation),
        "methods": {row["method"]: method_table.as_json(row) for row in table},
        "exported": {
            name: {**vars(result), "path": str(Path(result.path).relative_to(folder))}
            for name, result in exported.items()
        },
        "costs": [asdict(row) for row in costs],
        "classes": class_rows,
    }
    sections = [
        method_table.markdown(
            experiment, teacher, table, "![Accuracy and loss by epoch](curves.png)"
        ),
        _sizes(experiment),
        _exported(report["exported"]),
        _costs(costs, cost_images, experiment.data.test_examples),
        class_section,
    ]
    if measured is not None:
        report["measures"] = measured
        sections.append(measures.markdown(experiment, measured))
    _plot_curves(experiment, folder, teacher, table)
    if costs:
        cost_report.plot(costs, folder / "costs.png")
    write_json(folder / "report.json", report)
    write_text(folder / "report.md", markdown_text(*sections, method_table.made_with()))
    # Through JSON, so that what is returned is what can be read again.
    return json.loads(json.dumps(report))


def _sizes(experiment):
    """The sizes of the networks, and the budget of the KD layers."""
    if not experiment.sizes:
        return ""
    rows = []
    for role, size in experiment.sizes.items():
        if role == "student_with_kd_layers":
            title = f"student with KD layers ({size['method']})"
        else:
            title = f"{role} {getattr(experiment, role).label}"
        adds = "-" if size["multiply_adds"] is None else f"{size['multiply_adds']:,}"
        rows.append([title, f"{size['parameters']:,}", f"{size['bytes']:,}", adds])
    growth_limit = ""
    if experiment.growth is not None:
        percent = f"{100 * experiment.growth:g}%"
        growth_limit = f"Growth by the KD layers: at most {percent} of the student."
    return markdown_text(
        "## Sizes of the networks",
        "The running statistics of batch normalization are not counted here. The numbers of "
        "parameters above count them.",
        markdown_table(["network", "parameters", "bytes in float32", "multiply-adds"], rows),
        growth_limit,
    )


def _exported(exported):
    if not exported:
        return ""
    rows = [
        [
            name,
            f"`{result['path']}`",
            f"{result['bytes']:,}",
            f"max difference {result['max_difference']:.1e}, "
            f"top-1 agreement {100 * result['agreement']:.1f}%",
        ]
        for name, result in exported.items()
    ]
    table = markdown_table(["format", "file", "bytes", "compared with Keras"], rows)
    return markdown_text("## Exported student", table)


def _costs(rows, images, test_examples):
    if not rows:
        return ""
    return markdown_text(
        "## Size and latency of the student",
        cost_report.table(rows),
        f"{_forms(rows)} Top-1 is that on {images:,} of the {test_examples:,} test images. "
        "Latencies are those of TFLite on this machine, the shortest of several runs.",
        "![Accuracy against size, multiply-adds and latency](costs.png)",
    )


def _forms(rows):
    """What the forms of a table of costs are."""
    forms, notes = {row.form: row for row in rows}, []
    if "plain" in forms:
        alone = (
            "trained alone" if forms["plain"].top1 is not None else "which was not trained alone"
        )
        notes += [f"`plain` is the student without KD layers, {alone}."]
    if "trained" in forms:
        notes += ["`as trained` is the student before folding."]
    if {"plain", "trained"} <= set(forms):
        notes += [
            "Its file computes the values of each KD layer at every location. The sizes of the "
            "networks count those before the global average pooling once for an image, as the "
            "training computes them."
        ]
    if "folded" in forms:
        notes += ["`folded` is what is exported."]
    return " ".join(notes)


def _metrics_by_epoch(file, offset):
    """Rows of a `metrics.csv` and their epochs, counted from 1.

    Args:
        file: The file. With an offset, the rows of `float/metrics.csv` beside it come first.
        offset: Epochs before those of the file.
    """
    rows = training_folder.read_metrics(file)
    epochs = [offset + row["epoch"] + 1 for row in rows]
    if offset:
        before, epochs_before = _metrics_by_epoch(file.parent / "float" / file.name, 0)
        rows, epochs = before + rows, epochs_before + epochs
    return rows, epochs


def _plot_curves(experiment, folder, teacher, table):
    """Accuracy and training loss of every training by epoch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    files = {"teacher": sorted(folder.glob("teacher/metrics.csv"))}
    for row in table:
        files[row["method"]] = [
            training_folder.student_folder(folder, row["method"], result["seed"]) / "metrics.csv"
            for result in row["results"]
        ]
    quantized = experiment.quantization_aware_schedule is not None
    offset = experiment.student_schedule.epochs if quantized else 0
    for name, trainings in files.items():
        options = method_style.style(name)
        for number, file in enumerate(trainings):
            rows, epochs = _metrics_by_epoch(file, offset if name != "teacher" else 0)
            label = None if number else method_style.title(name)
            # A training of one epoch is a point.
            options |= {"label": label, "alpha": 0.4 if number else 1, "marker": "."}
            accuracy.plot(epochs, [100 * row["val_accuracy"] for row in rows], **options)
            loss.plot(epochs, [row.get("task_loss", row["loss"]) for row in rows], **options)
    split = "validation" if experiment.data.has_validation else "test"
    if not files["teacher"]:
        accuracy.axhline(
            accuracies.accuracy_of(teacher),
            **{**method_style.style("teacher"), "linestyle": "--"},
            label="teacher, from a file" + (" (test images)" if split == "validation" else ""),
        )
    if quantized:
        for axes, label in ((accuracy, "fake quantization begins"), (loss, None)):
            axes.axvline(offset + 0.5, color=palette.GRAY, linestyle=":", label=label)
    accuracy.set(xlabel="epoch", ylabel=f"{split} accuracy (%)")
    loss.set(xlabel="epoch", ylabel="cross-entropy in training", yscale="log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_minor_locator(NullLocator())
    loss.yaxis.set_major_formatter("{x:g}")
    for axes in (accuracy, loss):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    handles, labels = accuracy.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, max(len(labels), 1)))
    figure.suptitle(f"{experiment.pair} on {experiment.data.name}", parse_math=False)
    save_figure(figure, folder / "curves.png", dpi=110)
