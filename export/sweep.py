"""How few templates will do: `python -m letkd_keras.export.sweep MODEL --out DIR`."""

import argparse
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import keras

from letkd_keras.export.card import provenance_of
from letkd_keras.export.command_line import add_data_options, data_name, images_from, run_main
from letkd_keras.export.cost_report import CostRow, as_json, forms_of, measure, plot, table
from letkd_keras.export.loading import load_student
from letkd_keras.export.reduction import fine_tune, reduce_templates
from letkd_keras.export.student import check_writable
from letkd_keras.files import atomic_path, open_atomic

log = logging.getLogger("letkd_keras")

_COUNTS = (32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        rows: `CostRow`s: plain, folded and reduced.
        chosen: The row of the fewest templates within the accuracy loss allowed.
        model: Its model, folded, to be exported.
    """

    rows: list
    chosen: CostRow
    model: keras.Model


def sweep(
    model,
    calibration,
    images,
    labels,
    *,
    counts=_COUNTS,
    max_loss=0.2,
    format="tflite",
    fine_tune_epochs=0,
    repeats=30,
    seed=0,
):
    """Reduce a student's templates to several numbers and choose the smallest that is good enough.

    Args:
        model: What `export_student` takes, with KD layers.
        calibration: Training images [N, H, W, C], normalised, to fit on.
        images: Other images to measure accuracy on. Choosing on a test set flatters: give
            validation images where the accuracy is to be reported.
        labels: Their classes.
        counts: Numbers of templates to try in each KD layer.
        max_loss: Accuracy that may be lost against the folded student, in percentage points.
        format: Format to measure.
        fine_tune_epochs: Epochs of `fine_tune` on the calibration images, 0 for none.
        repeats: Runs that a latency is the shortest of.
        seed: Seed of everything random.

    Returns:
        A `Sweep`; if no number is good enough, the folded student is chosen.

    Raises:
        ValueError: If an argument does not fit; see `reduce_templates`.
    """
    if not max_loss >= 0:
        raise ValueError(f"`max_loss` must be 0 or more. Received: max_loss={max_loss}")
    if labels is None:
        raise ValueError("`labels` must be given: a sweep compares accuracies")
    student = load_student(model)
    measured = {"images": images, "calibration": calibration}
    measured |= {"repeats": repeats, "name": student.name}
    forms = forms_of(student, images, labels)
    if "plain" not in forms:
        raise ValueError(
            "`model` must have KD layers whose templates can be reduced. "
            f"Received: model={student.name!r} without one"
        )
    rows = [
        measure(forms[form][0], form, format, labels=forms[form][1], **measured)
        for form in ("plain", "folded")
    ]
    folded = chosen = rows[1]
    best = forms["folded"][0]
    for count in sorted(set(counts), reverse=True):
        reduced = reduce_templates(student, calibration, count, seed=seed)
        if fine_tune_epochs:
            fine_tune(reduced.model, student, calibration, epochs=fine_tune_epochs, seed=seed)
        row = measure(reduced.model, f"reduced-{count}", format, labels=labels, **measured)
        rows.append(row)
        if row.top1 >= folded.top1 - max_loss:
            chosen, best = row, reduced.model
    return Sweep(rows, chosen, best)


def write_sweep(result, path, *, data=None, training=None):
    """Write `sweep.json`, `sweep.md`, `sweep.png` and the chosen model, `reduced.keras`.

    The folder can be exported as a run folder can.

    Args:
        result: `Sweep`.
        path: Folder.
        data: Name of the images, as the command lines take it.
        training: How the student was trained, as `provenance_of` tells.
    """
    path = Path(path)
    told = {
        "chosen": result.chosen.form,
        "data": data,
        "training": training,
        "rows": [as_json(row) for row in result.rows],
    }
    text = f"# Templates of {result.chosen.model}\n\n{table(result.rows)}\n"
    text += f"Chosen: {result.chosen.form}.\n\n![Accuracy against cost](sweep.png)\n"
    for name, content in (("sweep.json", json.dumps(told, indent=2) + "\n"), ("sweep.md", text)):
        with open_atomic(path / name) as file:
            file.write(content.encode())
    plot([row for row in result.rows if row.top1 is not None], path / "sweep.png")
    with atomic_path(path / "reduced.keras") as file:
        result.model.save(file)


def parse(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.export.sweep",
        description="Reduce a student's templates to several numbers, measure accuracy, size and "
        "latency, and choose the fewest within an accuracy loss. The folder, with the chosen model "
        "in reduced.keras, can be exported like a run's.",
    )
    parser.add_argument("model", type=Path, help="a .keras file or a recipe's run folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--templates", default=",".join(map(str, _COUNTS)), help="numbers to try")
    parser.add_argument("--max-loss", type=float, default=0.2, help="percentage points, at most")
    parser.add_argument("--format", default="tflite", help="format to measure")
    parser.add_argument("--fine-tune-epochs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    add_data_options(parser)
    parser.set_defaults(calibration_images=1000)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Sweep, write and print; returns the exit status."""
    options = parse(arguments)
    check_writable(options.out)
    student = load_student(options.model)
    data = images_from(options)
    if data is None or data.calibration is None:
        raise ValueError("`data` must be given, with test and calibration images. Received: none")
    result = sweep(
        student,
        data.calibration,
        data.images,
        data.labels,
        counts=[int(count) for count in options.templates.split(",")],
        max_loss=options.max_loss,
        format=options.format,
        fine_tune_epochs=options.fine_tune_epochs,
        seed=options.seed,
    )
    training = provenance_of(options.model)
    write_sweep(result, options.out, data=data_name(options), training=training)
    print(table(result.rows))
    print(f"chosen: {result.chosen.form}, in {options.out / 'reduced.keras'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
