"""Grids that differ in one setting, under one teacher: `sweep.md`, `sweep.csv`, `sweep.png`."""

import csv
import io
from dataclasses import replace
from pathlib import Path

from letkd_keras.recipes import grid, grid_table, stages
from letkd_keras.recipes.networks import Network
from letkd_keras.recipes.run_folder import write_text


def run(setting, values, experiments, out, verbose=2):
    """Train a grid for each value of a setting and put them side by side.

    Args:
        setting: Name of the setting, e.g. `"templates"`.
        values: Its values.
        experiments: An `Experiment` for each, which differ in nothing else.
        out: Folder of the sweep, with the teacher's training and a grid folder for each value.
        verbose: Keras' verbosity of training.

    Returns:
        List of rows: those of the grids, with the setting.

    Raises:
        ValueError: If an experiment does not fit; before any long work.
    """
    out = Path(out)
    for experiment in experiments:
        stages.check(experiment)
    first = experiments[0]
    if not first.teacher.is_file:
        stages.teacher(first, out, verbose)
        network = Network(str(out / "teacher" / "teacher.keras"))
        experiments = [replace(experiment, teacher=network) for experiment in experiments]
    rows = []
    for value, experiment in zip(values, experiments, strict=True):
        table = grid.run(experiment, out / f"{setting}-{value:g}", verbose)
        rows += [{setting: value, **row} for row in table]
        _write(setting, rows, experiment, out)
    return rows


def _write(setting, rows, experiment, out):
    columns = grid_table.columns(experiment)
    heads = [setting, "method", "trials", *columns.values(), "parameters"]
    lines = [f"# {setting} of {experiment.pair.name} on {experiment.data.name}", ""]
    lines += [f"{experiment.data.split}; a folder for each value has its whole table.", ""]
    lines += [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = [f"{row[setting]:g}", row["title"], str(row["trials"])]
        cells += [grid_table.spread(row, name) for name in columns]
        cells += ["-" if row["parameters"] is None else f"{row['parameters']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    write_text(out / "sweep.md", "\n".join([*lines, "", "![Accuracy by value](sweep.png)", ""]))
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [name for name in rows[0] if name != "errors"], extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "sweep.csv", text.getvalue())
    _plot(setting, [row for row in rows if row["trials"]], columns, out)


def _plot(setting, rows, columns, out):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    name, label = next(iter(columns.items()))
    for title in dict.fromkeys(row["title"] for row in rows):
        own = [row for row in rows if row["title"] == title]
        axes.errorbar(
            [row[setting] for row in own],
            [row[f"{name}_mean"] for row in own],
            yerr=[row[f"{name}_std"] or 0 for row in own],
            marker="o",
            capsize=3,
            label=title,
        )
    axes.set(xlabel=setting, ylabel=f"{label} (%)", xscale="log")
    axes.grid(alpha=0.3)
    if rows:
        axes.legend()
    aside = out / ".sweep.part.png"
    figure.savefig(aside, dpi=110)
    aside.replace(out / "sweep.png")
