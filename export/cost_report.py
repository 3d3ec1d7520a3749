"""What a student costs in each form and format, measured: rows, table and plot."""

import logging
import tempfile
from dataclasses import asdict, dataclass

import numpy as np

from letkd_keras.export import formats
from letkd_keras.export.folding import fold
from letkd_keras.export.loading import load_student
from letkd_keras.export.rewriting import rewrite
from letkd_keras.export.student import prepare, size_on_disk
from letkd_keras.export.verification import latency_ms, reload_outputs
from letkd_keras.files import atomic_path, open_atomic
from letkd_keras.functional.cost import cost_of
from letkd_keras.functional.graph import flatten
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.layers import KDLayer

log = logging.getLogger("letkd_keras")


@dataclass(frozen=True)
class CostRow:
    """One form of a student in one format.

    Attributes:
        model: Name of the student.
        form: `"plain"` (without KD layers), `"trained"` (as trained, not folded), `"folded"` or
            `"reduced-N"`.
        format: Name of the format.
        params: Parameters.
        macs: Multiply-adds for one image.
        bytes: Size on disk.
        latency_ms_1: Milliseconds for one image, one thread.
        latency_ms_2: Milliseconds for one image, two threads.
        latency_ms_batch32: Milliseconds for 32 images, two threads.
        top1: Accuracy on the test images in percent, or `None` without labels.
    """

    model: str
    form: str
    format: str
    params: int
    macs: int
    bytes: int
    latency_ms_1: float
    latency_ms_2: float
    latency_ms_batch32: float
    top1: float | None


def measure(model, form, format, *, images, labels=None, calibration=None, repeats=30, name=None):
    """Write a model in a format, run it and measure it.

    Args:
        model: Functional `keras.Model` in the form wanted; it is written as it is.
        form: Name of the form.
        format: Name of the format.
        images: Test images [N, H, W, C], normalised.
        labels: Their classes, or `None`.
        calibration: Training images, for int8.
        repeats: Runs that a latency is the shortest of.
        name: Name of the student; `None` for the model's.

    Returns:
        A `CostRow`.
    """
    job = prepare(model, images=images[:8], calibration=calibration, fold=False)
    kind = formats.find(format)
    batch = np.resize(images, (32, *images.shape[1:])).astype("float32")
    cost = cost_of(job.student, images.shape[1:])
    with tempfile.TemporaryDirectory() as folder, atomic_path(f"{folder}/artifact") as file:
        kind.write(job.written, file, job.options)
        logits = None if labels is None else reload_outputs(kind.runtime, file, images)
        row = CostRow(
            model=name or model.name,
            form=form,
            format=format,
            params=cost.parameters,
            macs=cost.multiply_adds,
            bytes=size_on_disk(file),
            latency_ms_1=latency_ms(kind.runtime, file, batch[:1], 1, repeats),
            latency_ms_2=latency_ms(kind.runtime, file, batch[:1], 2, repeats),
            latency_ms_batch32=latency_ms(kind.runtime, file, batch, 2, max(repeats // 5, 1)),
            top1=None if labels is None else 100 * float(np.mean(logits.argmax(-1) == labels)),
        )
    log.info("%s", row)
    return row


def forms_of(student, images, labels=None, plain=None):
    """The forms of a student that need no fitting: plain, trained and folded.

    Args:
        student: What `export_student` takes.
        images: Test images [N, H, W, C], normalised; some of them check the folding.
        labels: Their classes, or `None`.
        plain: The student trained without KD layers. `None`: the network without its KD layers,
            whose accuracy says nothing.

    Returns:
        Dictionary by form of the model and the labels to measure it with; without `"plain"` if
        the student has no KD layers.
    """
    student, some = load_student(student), images[:64]
    forms = {"trained": (student, labels), "folded": (fold(student, images=some), labels)}
    if not kd_layers_of(student):
        return forms
    if plain is None:
        return {"plain": (fold(without_kd_layers(student), images=some), None), **forms}
    return {"plain": (fold(plain, images=some), labels), **forms}


def without_kd_layers(student):
    """A copy of a student with its KD layers left out: what the plain network costs."""
    return rewrite(
        flatten(student),
        lambda layer, rewriter, *args, **kwargs: args[0] if isinstance(layer, KDLayer) else None,
    )


def as_json(row):
    """A row as a JSON-like dictionary."""
    return asdict(row)


def table(rows):
    """Rows as a Markdown table; overheads are those over the first plain row of the format."""
    plain = {row.format: row for row in reversed(rows) if row.form == "plain"}
    lines = [
        "| model | form | format | parameters | multiply-adds | bytes "
        "| 1 thread | 2 threads | batch of 32 | top-1 | bytes, time over plain |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        top1 = "-" if row.top1 is None else f"{row.top1:.2f}%"
        over = "-"
        if row.form != "plain" and row.format in plain:
            other = plain[row.format]
            over = f"{row.bytes / other.bytes - 1:+.0%}, "
            over += f"{row.latency_ms_1 / other.latency_ms_1 - 1:+.0%}"
        lines.append(
            f"| {row.model} | {row.form} | {row.format} | {row.params:,} | {row.macs:,} "
            f"| {row.bytes:,} | {row.latency_ms_1:.2f} ms | {row.latency_ms_2:.2f} ms "
            f"| {row.latency_ms_batch32:.1f} ms | {top1} | {over} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows, path):
    """Accuracy against size, multiply-adds and latency as a PNG.

    Args:
        rows: `CostRow`s.
        path: File to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    quantities = (
        ("bytes", 1e6, "file size (MB)"),
        ("macs", 1e6, "multiply-adds (millions)"),
        ("latency_ms_1", 1, "latency, batch 1, one thread (ms)"),
    )
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(row.format for row in rows))}
    for axis, (field, unit, label) in zip(axes, quantities, strict=True):
        for row in rows:
            x, y = getattr(row, field) / unit, row.top1 or 0
            axis.plot(x, y, "o", color=colours[row.format])
            axis.annotate(row.form, (x, y), fontsize=7, xytext=(3, 3), textcoords="offset points")
        axis.set(xlabel=label, xscale="log")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("top-1 accuracy (%)")
    for name, colour in colours.items():
        axes[-1].plot([], [], "o", color=colour, label=name)
    axes[-1].legend(fontsize=8)
    with open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=110)
