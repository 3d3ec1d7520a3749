"""The table of methods: a row for each, of its trials in a run folder and the published numbers.

`report.md` of a run and `table.md` of `compare` are made from these rows.
"""

import logging
import os
import platform
from datetime import date

from letkd_keras.commands import palette
from letkd_keras.commands.markdown import markdown_table, markdown_text
from letkd_keras.files import save_figure, write_csv, write_text
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.reports import method_style
from letkd_keras.recipes.trainings import accuracies, training_folder
from letkd_keras.versions import versions

log = logging.getLogger(__name__)


def rows(experiment, folder):
    """A row for each method that has trainings in the folder, in the order of the table of methods.

    Args:
        experiment: `Experiment`.
        folder: Path of the run folder.

    Returns:
        List of dictionaries: `method`, `title`, `trials` (finished), `failed`, `NAME_mean` and
        `NAME_std` (`None` for fewer than two trials) of the accuracies of a result, `published`
        (`Accuracy` or `None`), `parameters` of the student that ships, `parameters_plain` of the
        student without what the method adds, `seconds` (mean time of a training), `errors` (first
        lines by seed), `results` (of the finished trials).

    Raises:
        ValueError: If a result is damaged.
    """
    trainings = {}
    for method, seed, path in training_folder.student_trainings(folder):
        if methods.is_known(method):
            trainings.setdefault(method, {})[seed] = path
    return [
        _row(experiment, method, trainings[method])
        for method in sorted(trainings, key=methods.position)
    ]


def warn_about_unknown(folder):
    """Log which trainings of a run folder are left out, since nothing is known of their method."""
    trainings = training_folder.student_trainings(folder)
    unknown = sorted({name for name, _, _ in trainings if not methods.is_known(name)})
    if unknown:
        log.warning(
            "%s has trainings of unknown methods, which are left out: %s. If a module of your own "
            "adds them, name it by --import.",
            folder,
            ", ".join(unknown),
        )


def _row(experiment, method, trainings):
    finished = [
        {"seed": seed, **result}
        for seed, path in trainings.items()
        if (result := training_folder.finished(path)) is not None
    ]
    errors = {
        seed: error
        for seed, path in trainings.items()
        if (error := training_folder.failure(path)) is not None
    }
    row = {
        "method": method,
        "title": methods.title(method),
        "trials": len(finished),
        "failed": len(errors),
        "published": experiment.published(method),
    }
    for name in accuracies.columns(experiment.data.has_validation):
        mean, std = accuracies.mean_and_std(result[name] for result in finished)
        row |= {f"{name}_mean": mean, f"{name}_std": std}
    for name in ("parameters", "parameters_plain"):
        row[name] = finished[0][name] if finished else None
    row["seconds"], _ = accuracies.mean_and_std(result["seconds"] for result in finished)
    return {**row, "errors": errors, "results": finished}


def markdown(experiment, teacher, table, picture):
    """The table in Markdown, with what its reader must know.

    Args:
        experiment: `Experiment`.
        teacher: Result of the teacher.
        table: Rows.
        picture: Markdown of a picture below the table.

    Returns:
        A text.
    """
    data = experiment.data
    # Those of this start, and those that the folder has from earlier ones.
    names = {*experiment.methods, *(row["method"] for row in table)}
    columns = accuracies.columns(data.has_validation)
    has_published = any(row["published"] for row in table)
    heads = ["method", "trials", *columns.values()]
    heads += ["published"] if has_published else []
    heads += ["parameters", "without KD layers or adapters", "time"]
    return markdown_text(
        f"# {experiment.pair} on {data.name}",
        _trainings(experiment, names),
        _few_images(experiment),
        _ended_early(experiment, table),
        f"Teacher: {accuracies.accuracy_of(teacher):.2f}% top-1{_published_teacher(experiment)}, "
        f"{teacher['parameters']:,} parameters.{_weak_teacher(experiment, teacher, table)}",
        _layers(experiment, names),
        markdown_table(heads, [_cells(row, columns, has_published) for row in table]),
        "Accuracy in percent, mean ± standard deviation over the trials; mean time of a training. "
        + accuracies.selection(data.has_validation),
        picture,
        _sources(table),
        _failures(table),
    )


def _trainings(experiment, names):
    """Images, schedule and templates, as a paragraph."""
    data, schedule = experiment.data, experiment.student_schedule
    is_part = experiment.spec.train_examples or experiment.spec.test_examples
    return (
        f"{data.train_examples:,} training and {data.test_examples:,} test images "
        f"({data.split}{'; a part of them' if is_part else ''}). "
        f"Students: {schedule.epochs} epochs of batches of {schedule.batch_size}, seeds from "
        f"{experiment.seed}{_prototypes(experiment, names)}. {date.today().isoformat()}."
        f"{_quantization(experiment)}"
    )


def _sources(table):
    """The sources of the published numbers, as a list."""
    sources = dict.fromkeys(
        f"- {row['title']}: {source_text(row['published'])}" for row in table if row["published"]
    )
    return markdown_text("Sources of the published numbers:", "\n".join(sources)) if sources else ""


def _failures(table):
    """The errors of the trainings that failed, as a list."""
    failed = [
        f"- {row['title']}, seed {seed}: `{error}`"
        for row in table
        for seed, error in row["errors"].items()
    ]
    if not failed:
        return ""
    what = "These trainings failed. A command with the same method tries them again:"
    return markdown_text(what, "\n".join(failed))


def _weak_teacher(experiment, teacher, table):
    """That the teacher is worse than the student alone, as two sentences."""
    name = next(iter(accuracies.columns(experiment.data.has_validation)))
    alone = next((row[f"{name}_mean"] for row in table if row["method"] == "student"), None)
    if alone is None or alone <= accuracies.accuracy_of(teacher):
        return ""
    return (
        " This is less than the student alone has. Under such a teacher a method may lower the "
        "student's accuracy: train the teacher for longer, or use a better one."
    )


def _few_images(experiment):
    """That students see a part of the images only, as a paragraph."""
    if experiment.student_examples is None:
        return ""
    return (
        f"The students see {experiment.student_examples:,} of the training images, repeated in "
        "each epoch; the teacher and its prototypes had all."
    )


def _ended_early(experiment, table):
    """The epochs of the trainings that a callback ended, as a paragraph."""
    planned = experiment.quantization_aware_schedule or experiment.student_schedule
    ended = [
        f"{row['title']}, seed {result['seed']}: {result['epochs']}"
        for row in table
        for result in row["results"]
        if result["epochs"] < planned.epochs
    ]
    if not ended:
        return ""
    return f"A callback ended trainings early, after these epochs: {'; '.join(ended)}."


def _quantization(experiment):
    schedule = experiment.quantization_aware_schedule
    if schedule is None:
        return ""
    return (
        f" Then {schedule.epochs} epochs under fake quantization, which is also in force where "
        "their accuracies are measured. The best epoch is one of these. The folder `float` of each "
        "training has the epochs before."
    )


def _published_teacher(experiment):
    accuracy = experiment.published("teacher")
    return "" if accuracy is None else f" (published: {published_text(accuracy)})"


def _prototypes(experiment, names):
    """The numbers of templates at the levels that one of the methods uses."""
    numbers = {
        "penultimate": f"{experiment.templates} penultimate templates",
        "intermediate": f"{experiment.subclasses} sub-classes of each class",
    }
    parts = [numbers[level] for level in methods.layers_of(names)]
    return f"; {', '.join(parts)}" if parts else ""


def _layers(experiment, names):
    parts = [
        f"the {role}'s {level} layer `{layer}`"
        for role, network in (("teacher", experiment.teacher), ("student", experiment.student))
        for level in methods.levels_of(names)
        if (layer := network.layer(level)) is not None
    ]
    return f"Layers: {', '.join(parts)}." if parts else ""


def made_with():
    """Versions and machine, as a sentence."""
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    cores = len(os.sched_getaffinity(0))  # of this process, perhaps fewer than the machine has
    return f"Made with {packages} on {cores} CPU core{'s' * (cores > 1)} ({platform.machine()})."


def _cells(row, columns, has_published):
    trials = f"{row['trials']}" + (f" ({row['failed']} failed)" if row["failed"] else "")
    cells = [row["title"], trials]
    cells += [accuracies.mean_text(row[f"{name}_mean"], row[f"{name}_std"]) for name in columns]
    cells += [published_text(row["published"])] if has_published else []
    if row["trials"]:
        cells += [f"{row[name]:,}" for name in ("parameters", "parameters_plain")]
        cells += [f"{row['seconds']:.0f} s"]
    else:
        cells += ["-"] * 3
    return cells


def published_text(accuracy):
    """A published accuracy as text: `72.44 ± 0.24`, `72.33/91.06` with top-5, `-` for none."""
    if accuracy is None:
        return "-"
    if accuracy.top5 is not None:
        return f"{accuracy.top1:.2f}/{accuracy.top5:.2f}"
    return accuracies.mean_text(accuracy.top1, accuracy.spread)


def source_text(accuracy):
    """Source of a published accuracy, with its note."""
    return accuracy.source + (f" ({accuracy.note})" if accuracy.note else "")


def as_json(row):
    """A row as a dictionary of JSON types."""
    published = row["published"]
    return {**row, "published": None if published is None else vars(published)}


def write(experiment, folder, teacher):
    """Write `table.md`, `table.csv`, `table.png` and `trainings.csv` of a folder.

    Args:
        experiment: `Experiment`.
        folder: Path of the run folder.
        teacher: Result of the teacher.

    Returns:
        The rows.
    """
    table = rows(experiment, folder)
    text = markdown(experiment, teacher, table, "![Accuracy by method](table.png)")
    write_text(folder / "table.md", markdown_text(text, made_with()))
    write_table_csv(folder / "table.csv", table)
    write_trainings_csv(folder / "trainings.csv", experiment, table)
    _plot(experiment, teacher, table, folder / "table.png")
    return table


_NOT_IN_CSV = ("errors", "results", "failed_now")


def write_table_csv(path, table):
    """Write rows of a table as CSV, published numbers as `published` and `published_spread`."""
    flat = []
    for row in table:
        published = row["published"]
        flat.append({name: row[name] for name in row if name not in _NOT_IN_CSV})
        flat[-1]["published"] = getattr(published, "top1", None)
        flat[-1]["published_spread"] = getattr(published, "spread", None)
    write_csv(path, list(flat[0]) if flat else [], flat)


def write_trainings_csv(path, experiment, table):
    """Write a row for each finished training: method, seed, epochs, sizes and accuracies.

    Args:
        path: Path of the file.
        experiment: `Experiment`.
        table: Rows of `rows`.
    """
    columns = accuracies.columns(experiment.data.has_validation)
    names = ["method", "seed", "epochs", "parameters", "parameters_plain", *columns]
    names += ["best_epoch", "seconds"]
    trainings = [{"method": row["method"], **result} for row in table for result in row["results"]]
    write_csv(path, names, [{name: row.get(name) for name in names} for row in trainings])


def _plot(experiment, teacher, table, path):
    from matplotlib.figure import Figure

    table = [row for row in table if row["trials"]][::-1]
    figure = Figure(figsize=(8, 2.2 + 0.4 * len(table)), layout="constrained")
    axes = figure.subplots()
    columns = accuracies.columns(experiment.data.has_validation)
    for y, row in enumerate(table):
        color = method_style.style(row["method"])["color"]
        for marker, filling, offset, name in zip(
            "os", (color, "white"), (0.12, -0.12), columns, strict=True
        ):
            axes.errorbar(
                row[f"{name}_mean"],
                y + offset,
                xerr=row[f"{name}_std"] or 0,
                fmt=marker,
                color=color,
                markerfacecolor=filling,
                capsize=3,
            )
        if row["published"]:
            spread = row["published"].spread or 0
            axes.errorbar(row["published"].top1, y, xerr=spread, fmt="kx", capsize=3)
    # The legend is about markers; colors are those of the methods.
    gray = {"color": palette.GRAY, "linestyle": ""}
    for marker, filling, label in zip("os", (palette.GRAY, "white"), columns.values(), strict=True):
        axes.plot([], [], marker=marker, markerfacecolor=filling, label=label, **gray)
    if any(row["published"] for row in table):
        axes.plot([], [], "kx", label="published")
    axes.axvline(accuracies.accuracy_of(teacher), color="black", linestyle="--", label="teacher")
    axes.set_xlabel("top-1 (%), mean and standard deviation")
    axes.set_title(f"{experiment.pair} on {experiment.data.name}", parse_math=False)
    axes.set_yticks(range(len(table)), [row["title"] for row in table])
    axes.set_ylim(-0.6, max(len(table), 1) - 0.4)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    save_figure(figure, path, dpi=110)
