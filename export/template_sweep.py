"""How few templates a student needs: measured and selected."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import keras

from letkd_keras import ranges
from letkd_keras.commands.progress import bar
from letkd_keras.export import formats
from letkd_keras.export.card import describe_kd_layers
from letkd_keras.export.cost_report import CostRow, form_title, forms_of, measure, plot, table
from letkd_keras.export.images_and_labels import check_labels, images_for
from letkd_keras.export.loading import load_student
from letkd_keras.export.reduction import (
    fine_tune,
    images_to_fit,
    reduce_templates,
    reducible_layers,
)
from letkd_keras.export.student_folder import REDUCED, SWEEP
from letkd_keras.files import save_model, write_json, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sweep:
    """Result of a sweep.

    Attributes:
        rows: List of `CostRow`: plain, folded, and reduced to each number of templates.
        selected: The row of the smallest number of templates within the allowed loss.
        model: Its model, folded, to be exported.
        selected_on: Description of the images that it was selected on.
        kd_layers: The KD layers of the student before the reduction, see `card.describe_kd_layers`.
        templates: Number of templates that the selected model has, by KD layer.
    """

    rows: list
    selected: CostRow
    model: keras.Model
    selected_on: str
    kd_layers: list
    templates: dict


def sweep(
    model,
    selection,
    images=None,
    labels=None,
    *,
    templates=(32, 64, 128, 256, 512, 1024),
    max_loss=0.2,
    format="tflite",
    fine_tune_epochs=0,
    repeats=30,
    seed=0,
):
    """Reduce a student to several numbers of templates and select the smallest that is enough.

    Args:
        model: What `export_student` accepts, with KD layers.
        selection: `SelectionImages`: the images to select on, and those to fit on.
        images: Test images [N, H, W, C], normalized. Their accuracy is reported and selects
            nothing. `None` for no test accuracy.
        labels: Their classes [N].
        templates: Numbers of templates to try in each KD layer. Those that leave every layer as it
            is are left out, with a message in the log.
        max_loss: Accuracy on the images for selection that may be lost against the folded student,
            in percentage points.
        format: Format to measure.
        fine_tune_epochs: Epochs of `fine_tune` on the calibration images, 0 for none.
        repeats: Number of runs, of which the fastest is the latency.
        seed: Seed of everything random.

    Returns:
        `Sweep`. If no number of templates is enough, the folded student is selected.

    Raises:
        ValueError: If an argument does not fit, or no number is less than the largest number of
            templates of a layer; see `reduce_templates`.
        ImportError: If the format's converter or runtime is not installed.
    """
    formats.check_installed([format])
    ranges.non_negative_number.check(max_loss, "max_loss")
    ranges.non_negative_integer.check(fine_tune_epochs, "fine_tune_epochs")
    student = load_student(model)
    sizes = {name: layer.templates for name, layer in reducible_layers(student).items()}
    selection_images = images_for(student, selection.images, "selection")
    classes = student.output_shape[-1]
    selection_labels = check_labels(selection.labels, selection_images, classes)
    if selection_labels is None:
        raise ValueError("`selection` must have labels, to compare accuracies. Received: None")
    calibration = images_to_fit(student, selection.calibration, "calibration")
    counts = _counts(templates, max(sizes.values()))
    if images is None:
        images, labels = selection_images, None
    measured = {
        "images": images,
        "selection": (selection_images, selection_labels),
        "calibration": calibration,
        "repeats": repeats,
        "name": student.name,
    }
    forms = forms_of(student, images, labels)
    # The plain network was not trained, so that its accuracy says nothing.
    plain = measure(forms["plain"][0], "plain", format, **{**measured, "selection": None})
    folded = measure(forms["folded"][0], "folded", format, labels=labels, **measured)
    rows, selected, best, kept = [plain, folded], folded, forms["folded"][0], sizes
    with bar("reducing templates", len(counts)) as advance:
        for count in counts:
            advance(f"to {count}", parts=0)
            reduced = reduce_templates(student, calibration, count, seed=seed)
            if fine_tune_epochs:
                fine_tune(reduced.model, student, calibration, epochs=fine_tune_epochs, seed=seed)
            row = measure(reduced.model, f"reduced-{count}", format, labels=labels, **measured)
            rows.append(row)
            # Percentages are rounded in binary.
            if row.selection_top1 >= folded.selection_top1 - max_loss - 1e-9:
                selected, best, kept = row, reduced.model, reduced.templates
            advance()
    return Sweep(rows, selected, best, selection.description, describe_kd_layers(student), kept)


def _counts(templates, largest):
    """Numbers of templates less than the largest of a student, in descending order."""
    checked = (ranges.positive_integer.check(count, "templates") for count in templates)
    given = sorted(set(checked), reverse=True)
    counts = [count for count in given if count < largest]
    if not counts:
        raise ValueError(
            f"`templates` must have a number less than {largest}, the most templates that a KD "
            f"layer of the student has. Received: {', '.join(map(str, given))}"
        )
    if len(counts) < len(given):
        left_out = ", ".join(str(count) for count in given if count not in counts)
        log.info("not tried, since no KD layer has more than %d templates: %s", largest, left_out)
    return counts


def write_sweep(result, path, *, data=None, training=None):
    """Write `sweep.json`, `sweep.md`, `sweep.png` and the selected model, `reduced.keras`.

    The folder can be exported like a run folder.

    Args:
        result: `Sweep`.
        path: Folder.
        data: Configuration of the data set, as `open_data` returns it.
        training: How the student was trained, as `provenance_of` returns it.
    """
    path, rows, selected = Path(path), result.rows, result.selected
    folded = next(row for row in rows if row.form == "folded")
    reduced = {
        "form": selected.form,
        "selected_on": result.selected_on,
        "selection_top1": selected.selection_top1,
        "selection_top1_whole": folded.selection_top1,
        "top1": selected.top1,
        "top1_whole": folded.top1,
        "kd_layers": result.kd_layers,
        "templates": result.templates,
    }
    # That of an earlier sweep describes another model than the one that is written now.
    (path / SWEEP).unlink(missing_ok=True)
    plot(rows, path / "sweep.png")
    write_text(
        path / "sweep.md",
        f"# Templates of {selected.model}\n\n{table(rows)}\n"
        f"Selected: {form_title(selected.form)}, on {result.selected_on}. "
        "The test accuracy (top-1) selected nothing.\n\n![Accuracy against cost](sweep.png)\n",
    )
    save_model(result.model, path / REDUCED)
    # Last: this file marks the folder as complete.
    write_json(
        path / SWEEP,
        {
            "data": data,
            "training": training,
            "reduced": reduced,
            "rows": [asdict(row) for row in rows],
        },
    )
