"""What a grid found: `table.md`, `table.csv` and `table.png`."""

import csv
import io
import os
import platform
import statistics
from datetime import date
from importlib import metadata

from letkd_keras.recipes import methods
from letkd_keras.recipes.run_folder import write_text
from letkd_keras.recipes.training import finished


def rows(experiment, folder):
    """A row for each method that has cells in the folder, in the order of the table of methods.

    Args:
        experiment: `Experiment`, for its pair's published numbers.
        folder: `RunFolder` of the grid.

    Returns:
        List of dictionaries: `method`, `title`, `trials` (finished), `failed`, mean and standard
        deviation (`None` of fewer than two trials) of `accuracy_last` and `accuracy_best` in
        percent, `published`, `parameters` of what ships and `parameters_plain` without what the
        method leaves in it, `seconds` (mean time of a training), `errors` (seed: last line).
    """
    found = {path.name for path in folder.path.iterdir() if any(path.glob("seed*"))}
    known = [name for name in methods.METHODS if name in found]
    return [_row(experiment, folder, name) for name in (*known, *sorted(found - set(known)))]


def _row(experiment, folder, method):
    places = sorted(folder.path.glob(f"{method}/seed*"), key=lambda path: int(path.name[4:]))
    results = [result for place in places if (result := finished(place)) is not None]
    errors = {
        int(place.name[4:]): (place / "error.txt").read_text().strip().splitlines()[-1]
        for place in places
        if (place / "error.txt").exists()
    }
    row = {
        "method": method,
        "title": methods.title(method),
        "trials": len(results),
        "failed": len(errors),
        "published": experiment.pair.published.get(method),
        "errors": errors,
    }
    for name in ("accuracy_last", "accuracy_best"):
        values = [result[name] for result in results]
        row[f"{name}_mean"] = statistics.mean(values) if values else None
        row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    for name in ("parameters", "parameters_plain"):
        row[name] = results[0][name] if results else None
    row["seconds"] = statistics.mean(r["seconds"] for r in results) if results else None
    return row


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
    lines = [
        f"# {experiment.pair.name} on {data.name}",
        "",
        f"{data.train_examples} training and {data.test_examples} test images ({data.split}); "
        f"students {schedule.epochs} epochs of batches of {schedule.batch_size}; "
        f"{experiment.templates} penultimate templates and {experiment.subclasses} a class; seeds "
        f"from {experiment.seed}; {date.today().isoformat()}.",
        "",
        f"Teacher: {teacher['accuracy_last']:.2f}% top-1, {teacher['parameters']:,} parameters.",
        "",
        "| method | trials | top-1, last epoch | top-1, best epoch | published "
        "| parameters | without KD layers | time of a training |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in table),
        "",
        "Mean ± standard deviation over the trials. The best epoch is chosen on the test set, as "
        "the papers do, and so is optimistic; the last epoch is not chosen.",
        "",
        "![Accuracy by method](table.png)",
        "",
    ]
    failed = [(row["title"], seed, text) for row in table for seed, text in row["errors"].items()]
    if failed:
        lines += ["Failed, to be tried again at the next start:", ""]
        lines += [f"- {title}, seed {seed}: `{text}`" for title, seed, text in failed]
        lines += [""]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("keras", "tensorflow"))
    lines += [f"Made with {versions} on {os.cpu_count()} CPU cores ({platform.machine()}).", ""]
    return "\n".join(lines)


def _line(row):
    published = "-" if row["published"] is None else f"{row['published']:.2f}"
    trials = f"{row['trials']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
    if not row["trials"]:
        return f"| {row['title']} | {trials} | - | - | {published} | - | - | - |"
    return (
        f"| {row['title']} | {trials} | {_spread(row, 'accuracy_last')} "
        f"| {_spread(row, 'accuracy_best')} | {published} | {row['parameters']:,} "
        f"| {row['parameters_plain']:,} | {row['seconds']:.0f} s |"
    )


def _spread(row, name):
    mean, std = row[f"{name}_mean"], row[f"{name}_std"]
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _plot(experiment, teacher, table, folder):
    from matplotlib.figure import Figure

    table = [row for row in table if row["trials"]][::-1]
    figure = Figure(figsize=(8, 1.5 + 0.4 * len(table)), layout="constrained")
    axes = figure.subplots()
    places = range(len(table))
    for name, marker, label in (
        ("accuracy_last", "o", "last epoch"),
        ("accuracy_best", "^", "best epoch"),
    ):
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
    axes.axvline(teacher["accuracy_last"], color="grey", linestyle=":", label="teacher")
    axes.set(
        xlabel="top-1 on test images (%), mean and standard deviation",
        title=f"{experiment.pair.name} on {experiment.data.name}",
    )
    axes.set_yticks(places, [row["title"] for row in table])
    axes.grid(alpha=0.3)
    axes.legend()
    aside = folder / ".table.part.png"
    figure.savefig(aside, dpi=110)
    aside.replace(folder / "table.png")
