"""What a student costs in each form and format: measurements, table and plot."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from letkd_keras.commands import palette
from letkd_keras.commands.markdown import markdown_table
from letkd_keras.commands.terminal_log import hidden_messages
from letkd_keras.export import formats
from letkd_keras.export.folding import fold
from letkd_keras.export.job import prepare_job
from letkd_keras.export.loading import load_student
from letkd_keras.export.new_process import latency_ms, reload_outputs
from letkd_keras.files import save_figure, size_on_disk
from letkd_keras.functional.cost import known_cost_of
from letkd_keras.functional.graph import flatten
from letkd_keras.functional.graph_copy import copy_without
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.layers import KDLayer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CostRow:
    """One form of a student in one format.

    Attributes:
        model: Name of the student.
        form: `"plain"` (without KD layers), `"trained"` (as trained, not folded), `"folded"` or
            `"reduced-N"` (N templates in each KD layer).
        format: Name of the format.
        params: Number of parameters.
        macs: Multiply-adds for one image, or `None` where they are unknown.
        bytes: Size on disk.
        latency_ms_1: Milliseconds for one image, one thread.
        latency_ms_2: Milliseconds for one image, two threads.
        latency_ms_batch32: Milliseconds for 32 images, two threads.
        top1: Accuracy on the test images in percent, or `None` without labels.
        selection_top1: Accuracy on the images that a form was selected on, in percent, or `None`.
    """

    model: str
    form: str
    format: str
    params: int
    macs: int | None
    bytes: int
    latency_ms_1: float
    latency_ms_2: float
    latency_ms_batch32: float
    top1: float | None
    selection_top1: float | None = None


def measure(
    model,
    form,
    format,
    *,
    images,
    labels=None,
    selection=None,
    calibration=None,
    repeats=30,
    name=None,
):
    """Write a model in a format, run it and measure it.

    Args:
        model: Functional `keras.Model` in the form to measure. It is written without folding.
        form: Name of the form.
        format: Name of the format.
        images: Test images [N, H, W, C], normalized.
        labels: Their classes, or `None`.
        selection: `(images, labels)` that a form is selected on, or `None`.
        calibration: Training images, for formats that are calibrated or train.
        repeats: Number of runs, of which the fastest is the latency.
        name: Name of the student; `None` for the model's.

    Returns:
        `CostRow`.

    Raises:
        ImportError: If the format needs a package that is not installed.
        ValueError: If it needs calibration images, and there are none.
    """
    formats.check_installed([format])
    formats.check_calibration([format], calibration)
    file_format = formats.find(format)
    job = prepare_job(model, images=images[:8], calibration=calibration, fold=False)
    batch = np.resize(images, (32, *images.shape[1:])).astype("float32")
    cost = known_cost_of(job.student, images.shape[1:])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "artifact"
        file_format.write(job.written, file, job.options)

        def accuracy(images, labels):
            logits = reload_outputs(file_format.runtime, file, images)
            return 100 * float(np.mean(logits.argmax(-1) == labels))

        row = CostRow(
            model=name or model.name,
            form=form,
            format=format,
            params=cost.parameters,
            macs=cost.multiply_adds,
            bytes=size_on_disk(file),
            latency_ms_1=latency_ms(file_format.runtime, file, batch[:1], 1, repeats),
            latency_ms_2=latency_ms(file_format.runtime, file, batch[:1], 2, repeats),
            latency_ms_batch32=latency_ms(
                file_format.runtime, file, batch, 2, max(repeats // 5, 1)
            ),
            top1=None if labels is None else accuracy(images, labels),
            selection_top1=None if selection is None else accuracy(*selection),
        )
    log.info(
        "%s, %s: %s bytes, %.2f ms an image%s",
        form_title(form),
        format,
        f"{row.bytes:,}",
        row.latency_ms_1,
        "" if row.top1 is None else f", {row.top1:.2f}% top-1",
    )
    return row


def forms_of(student, images, labels=None, plain=None):
    """Make the forms of a student that need no fitting: plain, trained and folded.

    Args:
        student: What `export_student` accepts.
        images: Test images [N, H, W, C], normalized. The folding is checked on the first 64.
        labels: Their classes, or `None`.
        plain: The student trained without KD layers. `None`: the network with its KD layers
            removed, whose accuracy is not measured, since it was not trained in this form.

    Returns:
        Dictionary by form of `(model, labels)`: the model, and the labels to measure it with.
        There is no `"plain"` if the student has no KD layers.
    """
    student, few = load_student(student), images[:64]
    with hidden_messages():  # of the folding: the table has its sizes
        forms = {"trained": (student, labels), "folded": (fold(student, images=few), labels)}
        if not kd_layers_of(student):
            return forms
        if plain is None:
            return {"plain": (fold(without_kd_layers(student), images=few), None), **forms}
        return {"plain": (fold(plain, images=few), labels), **forms}


def without_kd_layers(student):
    """Copy a student without its KD layers, to measure what the plain network costs."""
    return copy_without(flatten(student), lambda x: isinstance(x, KDLayer), dtype="float32")


def form_title(form):
    """What a form is called in tables and pictures."""
    if form.startswith("reduced-"):
        return f"{form.removeprefix('reduced-')} templates"
    return "as trained" if form == "trained" else form


def table(rows):
    """Make a Markdown table of rows.

    Args:
        rows: `CostRow`s. Overheads are relative to the plain form of the same student in the same
            format. The student has a column where there are several.

    Returns:
        The table as text.
    """
    plain = {(row.model, row.format): row for row in rows if row.form == "plain"}
    has_selection = any(row.selection_top1 is not None for row in rows)
    accuracies = ["top-1 for selection", "test top-1"] if has_selection else ["top-1"]
    one_model = len({row.model for row in rows}) == 1
    header = [
        *([] if one_model else ["model"]),
        *("form", "format", "parameters", "multiply-adds", "bytes"),
        *("1 thread", "2 threads", "batch of 32", *accuracies, "bytes, time over plain"),
    ]
    cells = []
    for row in rows:
        over, other = "-", plain.get((row.model, row.format))
        if row.form != "plain" and other is not None:
            over = f"{row.bytes / other.bytes - 1:+.0%}, "
            over += f"{row.latency_ms_1 / other.latency_ms_1 - 1:+.0%}"
        cells.append(
            [
                *([] if one_model else [row.model]),
                *(form_title(row.form), row.format),
                f"{row.params:,}",
                "-" if row.macs is None else f"{row.macs:,}",
                f"{row.bytes:,}",
                *(f"{row.latency_ms_1:.2f} ms", f"{row.latency_ms_2:.2f} ms"),
                f"{row.latency_ms_batch32:.1f} ms",
                *([_percent(row.selection_top1)] if has_selection else []),
                *(_percent(row.top1), over),
            ]
        )
    return markdown_table(header, cells) + "\n"


def _percent(accuracy):
    return "-" if accuracy is None else f"{accuracy:.2f}%"


def plot(rows, path):
    """Plot accuracy against size, multiply-adds and latency.

    Args:
        rows: `CostRow`s. Test accuracies are plotted, or those for selection if there are none.
            A row without an accuracy is left out, and one without multiply-adds where they are
            plotted.
        path: `.png` file to write.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if _plotted_accuracy(row) is not None]
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    quantities = (
        ("bytes", 1e6, "file size (MB)"),
        ("macs", 1e6, "multiply-adds (millions)"),
        ("latency_ms_1", 1, "latency of one image, one thread (ms)"),
    )
    colors = _form_colors([row.form for row in rows])
    markers = dict(zip(dict.fromkeys(row.format for row in rows), "osD^vPX*<>hd", strict=False))
    for axis, (field, unit, label) in zip(axes, quantities, strict=True):
        known = [row for row in rows if getattr(row, field) is not None]
        for row in known:
            x, y = getattr(row, field) / unit, _plotted_accuracy(row)
            style = {"color": colors[row.form], "marker": markers[row.format]}
            axis.plot(x, y, markersize=9, alpha=0.85, **style)
        axis.margins(y=0.15)
        largest = max((getattr(row, field) / unit for row in known), default=1)
        axis.set(xlabel=label, xlim=(0, 1.12 * largest))
        axis.locator_params(axis="x", nbins=6)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1 accuracy (%)")
    legend = [(form_title(form), color, "o") for form, color in colors.items()]
    if len(markers) > 1:
        legend += [(name, palette.GRAY, marker) for name, marker in markers.items()]
    else:
        figure.suptitle(f"Student exported to {', '.join(markers)}")
    for title, color, marker in legend:
        axes[0].plot([], [], linestyle="", color=color, marker=marker, label=title)
    figure.legend(loc="outside lower center", ncols=6)
    save_figure(figure, path, dpi=110)


def _plotted_accuracy(row):
    return row.selection_top1 if row.top1 is None else row.top1


def _form_colors(forms):
    """Color of each form: the fewer templates, the lighter."""
    from matplotlib import colormaps

    colors = {"plain": palette.GRAY, "trained": palette.ORANGE, "folded": palette.BLUE}
    reduced = sorted(
        {form for form in forms if form not in colors},
        key=lambda form: int(form.removeprefix("reduced-")),
    )
    scale = colormaps["viridis"]
    colors |= {
        form: scale(0.95 - 0.75 * number / max(len(reduced) - 1, 1))
        for number, form in enumerate(reduced)
    }
    return {form: colors[form] for form in dict.fromkeys(forms)}
