"""Grids that differ in one setting, under one teacher: `values.md`, `values.csv`, `values.png`."""

import functools
import operator
from dataclasses import replace
from pathlib import Path

from letkd_keras.commands.log_file import logged_to, recorded
from letkd_keras.commands.markdown import markdown_table, markdown_text
from letkd_keras.commands.run_folder import (
    RunFolder,
    differences,
    is_run_folder,
    read_config,
)
from letkd_keras.commands.terminal_log import hidden_messages
from letkd_keras.files import save_figure, write_text
from letkd_keras.levels import LEVELS
from letkd_keras.recipes.experiments.networks import Network
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.reports import method_style, method_table
from letkd_keras.recipes.steps.teacher import train_teacher
from letkd_keras.recipes.studies import grid
from letkd_keras.recipes.trainings import accuracies, gpus

# The layers of the student are resolved by each value's own grid.
_OPEN_LAYERS = ("student.penultimate_layer", "student.intermediate_layer", "pool_sizes")


def run(experiment, setting, values, out, jobs=1):
    """Train a grid for each value of a setting and compare them.

    Args:
        experiment: `Experiment`; its own value of the setting is not used.
        setting: `SweptSetting`.
        values: Its values.
        out: Folder for the teacher's training and a folder of results for each value.
        jobs: See `grid.run`.

    Returns:
        List of rows: those of the grids, with the value under the name of the setting, also of the
        values that earlier starts tried in the folder. Numbers are in ascending order.

    Raises:
        ValueError: If an experiment does not fit; before any training.
    """
    out = Path(out)
    experiments = {tried: with_value(experiment, setting.field, tried) for tried in values}
    # What is hidden here, the grid of each value says again.
    with recorded() as messages, hidden_messages():
        prepared = [prepare(candidate) for candidate in experiments.values()]
    derived = setting.field.replace("student_schedule.", "quantization_aware_schedule.")
    open_keys = (*prepared[0].open_keys, *_OPEN_LAYERS, setting.field, derived)
    if experiment.growth is not None and setting.field in _OPEN_LAYERS:
        # The share is the same for all layers; the numbers that it allows are not.
        open_keys += ("templates", "subclasses")
    folder = RunFolder(out, {**prepared[0].config(), "compared": setting.name}, open_keys=open_keys)
    if prepared[0].teacher_phases:
        with (
            folder.locked(),
            logged_to(out / "log.txt", messages),
            gpus.scope(),
            experiment.data.broken_files_named(),
        ):
            train_teacher(prepared[0], out)
        layers = {f"{level}_layer": experiment.teacher.layer(level) for level in LEVELS}
        teacher = Network.of(str(out / "teacher" / "teacher.keras"), **layers)
        experiments = {
            tried: replace(candidate, teacher=teacher, fine_tune_schedule=None, typed=())
            for tried, candidate in experiments.items()
        }
    folders = {tried: out / f"{setting.name}-{_text(tried)}" for tried in values}
    first = None if setting.changes_prototypes else folders[values[0]] / "prototypes.npz"
    rows = []
    for tried, candidate in experiments.items():
        table = grid.run(candidate, folders[tried], jobs, first)
        rows += [{setting.name: tried, **row} for row in table]
        ignored = (*open_keys, *candidate.open_keys)
        everything = rows + _other_values(setting, experiment, folders, ignored)
        if all(isinstance(row[setting.name], int | float) for row in everything):
            everything.sort(key=lambda row: row[setting.name])
        _write(setting.name, everything, experiment, out)
    return everything


def _other_values(setting, experiment, folders, ignored):
    """Rows of the values that earlier starts tried, under the same teacher and settings."""
    first = next(iter(folders.values()))
    expected, rows = read_config(first), []
    for folder in sorted(first.parent.glob(f"{setting.name}-*")):
        if folder in folders.values() or not is_run_folder(folder):
            continue
        config = read_config(folder)
        if not differences(expected, config, ignore=ignored):
            value = functools.reduce(operator.getitem, setting.field.split("."), config)
            rows += [{setting.name: value, **row} for row in method_table.rows(experiment, folder)]
    return rows


def with_value(experiment, field, value):
    """The experiment with another value of a field, `"name"` or `"name.name"`.

    What was derived from the field is derived again.
    """
    outer, dot, inner = field.partition(".")
    if dot:
        value = replace(getattr(experiment, outer), **{inner: value})
    changed = {outer: value}
    if outer == "student_schedule" and experiment.quantization_aware_schedule is not None:
        epochs = experiment.quantization_aware_schedule.epochs
        changed["quantization_aware_schedule"] = value.quantization_aware(epochs)
    return replace(experiment, **changed)


def _write(name, rows, experiment, out):
    columns = accuracies.columns(experiment.data.has_validation)
    heads = [name, "method", "trials", *columns.values(), "parameters"]
    cells = [
        [
            *(_text(row[name]), row["title"], str(row["trials"])),
            *(accuracies.mean_text(row[f"{key}_mean"], row[f"{key}_std"]) for key in columns),
            "-" if row["parameters"] is None else f"{row['parameters']:,}",
        ]
        for row in rows
    ]
    text = markdown_text(
        f"# {name}: {experiment.pair} on {experiment.data.name}",
        f"{experiment.data.split}. The folder of each value has its whole table.",
        markdown_table(heads, cells),
        accuracies.selection(experiment.data.has_validation),
        "![Accuracy by value](values.png)",
        method_table.made_with(),
    )
    write_text(out / "values.md", text)
    method_table.write_table_csv(out / "values.csv", rows)
    _plot(name, [row for row in rows if row["trials"]], columns, out)


def _text(value):
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _plot(name, rows, columns, out):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    key, label = next(iter(columns.items()))
    tried = list(dict.fromkeys(row[name] for row in rows))
    numeric = all(isinstance(value, int | float) for value in tried)
    for title in dict.fromkeys(row["title"] for row in rows):
        own = [row for row in rows if row["title"] == title]
        if numeric:
            own.sort(key=lambda row: row[name])
        axes.errorbar(
            [row[name] for row in own],
            [row[f"{key}_mean"] for row in own],
            yerr=[row[f"{key}_std"] or 0 for row in own],
            marker="o",
            capsize=3,
            label=title,
            **method_style.style(own[0]["method"]),
        )
    if not numeric:
        axes.set_xticks(tried, tried, parse_math=False)
    elif tried and min(tried) > 0:
        axes.set_xscale("log", base=2)
        axes.set_xticks(tried, [_text(value) for value in tried])
        axes.minorticks_off()
    axes.set(xlabel=name.replace("-", " "), ylabel=f"{label} (%)")
    axes.grid(alpha=0.3)
    if rows:
        axes.legend()
    save_figure(figure, out / "values.png", dpi=110)
