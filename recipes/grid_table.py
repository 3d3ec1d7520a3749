"""What a grid found: `table.md`, `table.csv` and `table.png`."""

import csv
import io
import os
import platform
import statistics
from datetime import date
from importlib import metadata

import keras

from letkd_keras.recipes import methods
from letkd_keras.recipes.run_folder import write_text
from letkd_keras.recipes.training import accuracies, accuracy_of, chooses_epoch, finished


def rows(experiment, folder):
    """A row for each method that has cells in the folder, in the order of the table of methods.

    Args:
        experiment: `Experiment`, for its pair's published numbers.
        folder: `RunFolder` of the grid.

    Returns:
        List of dictionaries: `method`, `title`, `trials` (finished), `failed`, `NAME_mean` and
        `NAME_std` (`None` of fewer than two trials) of the accuracies of a result, `published`,
        `parameters` of what ships and `parameters_plain` without what the method leaves in it,
        `seconds` (mean time of a training), `errors` (summary by seed).
    """
    found = {path.name for path in folder.path.iterdir() if any(path.glob("seed*"))}
    return [_row(experiment, folder, name) for name in sorted(found, key=methods.place)]


def _row(experiment, folder, method):
    places = sorted(folder.path.glob(f"{method}/seed*"), key=lambda path: int(path.name[4:]))
    results = [result for place in places if (result := finished(place)) is not None]
    errors = {
        int(place.name[4:]): (place / "error.txt").read_text().splitlines()[0]
        for place in places
        if (place / "error.txt").exists()
    }
    published = {**experiment.pair.published, **experiment.pair.published_ablation}
    row = {
        "method": method,
        "title": methods.title(method),
        "trials": len(results),
        "failed": len(errors),
        "published": published.get(method),
        "errors": errors,
    }
    for name in columns(experiment):
        values = [result[name] for result in results]
        row[f"{name}_mean"] = statistics.mean(values) if values else None
        row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    for name in ("parameters", "parameters_plain"):
        row[name] = results[0][name] if results else None
    row["seconds"] = statistics.mean(r["seconds"] for r in results) if results else None
    return row


def columns(experiment):
    """Names of the accuracies of an experiment's results, with what a table calls them."""
    return accuracies(chooses_epoch(experiment.data))


_CHOICE = {
    "accuracy_best": "The best epoch is chosen on the test set, as the papers do, and so is "
    "optimistic; the last epoch is not chosen.",
    "accuracy_chosen": "The epoch is chosen on images held out of the training set; the test set "
    "is read once, after that.",
}


def write(experiment, folder, teacher):
    """Write the three files of a grid's table into its folder.

    Args:
        experiment: `Experiment`.
        folder: `RunFolder` of the grid.
        teacher: Result of the teacher.

    Returns:
        The rows.
    """
    table = rows(experiment, folder)
    write_text(folder / "table.md", _markdown(experiment, teacher, table))
    write_text(folder / "table.csv", _csv(table))
    _plot(experiment, teacher, table, folder)
    return table


def _csv(table):
    text = io.StringIO()
    columns = [name for name in table[0] if name != "errors"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _markdown(experiment, teacher, table):
    data, schedule = experiment.data, experiment.student_schedule
    shown = columns(experiment)
    lines = [
        f"# {experiment.pair.name} on {data.name}",
        "",
        f"{data.train_examples} training and {data.test_examples} test images ({data.split}); "
        f"students {schedule.epochs} epochs of batches of {schedule.batch_size}; "
        f"{experiment.templates} penultimate templates and {experiment.subclasses} a class; seeds "
        f"from {experiment.seed}; {date.today().isoformat()}.",
        "",
        f"Teacher: {accuracy_of(teacher):.2f}% top-1, {teacher['parameters']:,} parameters.",
        "",
        f"| method | trials | {' | '.join(shown.values())} | published "
        "| parameters | without what the method adds | time of a training |",
        f"|---|---|{'---|' * len(shown)}---|---|---|---|",
        *(_line(row, shown) for row in table),
        "",
        "Mean ± standard deviation over the trials. "
        + " ".join(text for name, text in _CHOICE.items() if name in shown),
        "",
        "![Accuracy by method](table.png)",
        "",
    ]
    failed = [(row["title"], seed, text) for row in table for seed, text in row["errors"].items()]
    if failed:
        lines += ["Failed, to be tried again at the next start:", ""]
        lines += [f"- {title}, seed {seed}: `{text}`" for title, seed, text in failed]
        lines += [""]
    packages = ("keras", keras.backend.backend())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    lines += [f"Made with {versions} on {os.cpu_count()} CPU cores ({platform.machine()}).", ""]
    return "\n".join(lines)


def _line(row, shown):
    published = "-" if row["published"] is None else f"{row['published']:.2f}"
    trials = f"{row['trials']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
    measured = ["-"] * 3
    if row["trials"]:
        measured = [f"{row[name]:,}" for name in ("parameters", "parameters_plain")]
        measured += [f"{row['seconds']:.0f} s"]
    cells = [row["title"], trials, *(spread(row, name) for name in shown), published]
    return f"| {' | '.join([*cells, *measured])} |"


def spread(row, name):
    """Mean and, where there is one, standard deviation of an accuracy of a row."""
    mean, std = row[f"{name}_mean"], row[f"{name}_std"]
    if mean is None:
        return "-"
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _plot(experiment, teacher, table, folder):
    from matplotlib.figure import Figure

    table = [row for row in table if row["trials"]][::-1]
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(table)), layout="constrained")
    axes = figure.subplots()
    places = range(len(table))
    for marker, (name, label) in zip("o^", columns(experiment).items(), strict=True):
        axes.errorbar(
            [row[f"{name}_mean"] for row in table],
            places,
            xerr=[row[f"{name}_std"] or 0 for row in table],
            fmt=marker,
            capsize=3,
            label=label,
        )
    published = [(row["published"], y) for y, row in zip(places, table, strict=True)]
    published = [(x, y) for x, y in published if x is not None]
    if published:
        axes.plot(*zip(*published, strict=True), "kx", label="published")
    axes.axvline(accuracy_of(teacher), color="grey", linestyle=":", label="teacher")
    axes.set(
        xlabel="top-1 (%), mean and standard deviation",
        title=f"{experiment.pair.name} on {experiment.data.name}",
    )
    axes.set_yticks(places, [row["title"] for row in table])
    axes.grid(alpha=0.3)
    axes.legend()
    aside = folder / ".table.part.png"
    figure.savefig(aside, dpi=110)
    aside.replace(folder / "table.png")
