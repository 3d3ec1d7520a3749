"""Exporting a student in one format or several, each verified."""

import logging
from pathlib import Path

import numpy as np

from letkd_keras import ranges
from letkd_keras.chance import is_near_chance
from letkd_keras.commands.progress import bar
from letkd_keras.export.artifact import write_artifact
from letkd_keras.export.card import listed_files, write_card
from letkd_keras.export.card_file import LABELS, write_labels
from letkd_keras.export.comparison import ExportMismatch
from letkd_keras.export.formats import table
from letkd_keras.export.formats.litert_quantizer import layer_precisions
from letkd_keras.export.job import prepare_job
from letkd_keras.export.student_folder import find_student, provenance_of
from letkd_keras.files import check_writable, remove_leftovers

log = logging.getLogger(__name__)

# Smallest number of labelled images whose accuracy is compared with that of guessing.
_ENOUGH_LABELS = 100


def export_student(
    model,
    path,
    format="savedmodel",
    *,
    images=None,
    labels=None,
    fold=True,
    tolerance=None,
    min_agreement=None,
    **options,
):
    """Export a student with its KD layers to one format.

    The artifact contains no teacher, no prototypes, no distillation outputs and no Python code. It
    takes RGB pixels from 0 to 255 if their normalization is known (`mean` and `std`, or a student
    that rescales them itself), otherwise images that are normalized as in training. It returns
    logits, even if the model ends in a softmax, or probabilities (`output`). Before it is moved to
    its final path, it is loaded in a new process without this package, where it must return what
    the student returns for the same images. With `class_names`, labels.txt beside it has a line for
    each class.

    A model that is folded already and a student without KD layers are exported in the same way.
    A batch normalization whose statistics were never updated is exported as it is, with a warning
    in the log.

    Args:
        model: A distiller, a student, a `.keras` file of either, the run folder of a recipe, the
            folder of one training, or the folder of a sweep.
        path: Folder to write into. It is created if needed. The artifact is named `savedmodel/`,
            `student.tflite`, `student_float16.tflite`, `student_dynamic.tflite`,
            `student_int8.tflite`, `student_int16x8.tflite`, `student_int4.tflite`,
            `student_qat.tflite`, `student_pruned.tflite`,
            `student_clustered.tflite` or `student.onnx`.
        format: `"savedmodel"`, `"tflite"` (float32), `"tflite-float16"`, `"tflite-dynamic"` (int8
            weights), `"tflite-int8"` (int8 throughout), `"tflite-int16x8"` (int8 weights and int16
            activations), `"tflite-int4"` (int4 weights) or `"onnx"`; or a format that trains the
            student further, to match its own probabilities: `"tflite-qat"` (int8 throughout),
            `"tflite-pruned"` or `"tflite-clustered"` (float32, small once compressed).
        images: Images [N, H, W, C] to verify on, normalized as for the student. They may be uint8
            if `mean` and `std` are given or the student rescales pixels itself. `None`: the
            calibration images, or eight images of noise from a fixed seed. Where only the order of
            the logits can be compared, it is compared on real images only: on noise it means
            nothing.
        labels: Their classes, integers [N] or [N, 1], or one-hot, for accuracies. If the student is
            hardly better than chance on at least 100 images, the log has a warning.
        fold: Whether to fold the student first (`letkd_keras.export.fold`), which makes it smaller
            and faster and leaves its logits unchanged.
        tolerance: Largest difference of a logit allowed, relative to the largest logit; `None` for
            the format's default, 1e-4 in float32.
        min_agreement: Smallest share of the images with the same top-1 class; `None` for the
            format's default, 0.98 in int8 and for the formats that train. By default a quantized
            or trained file with a smaller share is also accepted if it has 99% of the student's
            accuracy on at least 400 labelled images, and the student is better than chance.
        **options: Fields of `letkd_keras.export.ExportOptions`: `calibration` (needed by
            `tflite-int8`, `tflite-int16x8` and the formats that train), `integer_io`, `input`,
            `output`, `mean`, `std`, `crop`, `class_names`, `snr`, `precision`, `channels_first`,
            `opset`, `epochs`, `learning_rate`, `sparsity`, `clusters`, `seed`.

    Returns:
        `Exported`.

    Raises:
        FileNotFoundError: If `model` is a path without a model.
        ValueError: If the format is unknown, the model is not built or not functional, takes images
            [N, C, H, W] or returns NaN or infinity, images or options do not fit it, or the folder
            cannot be written.
        ImportError: If the format's converter or runtime is not installed.
        ExportMismatch: If the artifact does not compute what the student computes (a
            `ValueError`). Nothing is written then.
    """
    _check_limits(tolerance, min_agreement)
    options |= {"images": images, "labels": labels, "fold": fold}
    job, _ = _job_and_training(model, path, [format], options)
    result = write_artifact(job, path, format, tolerance=tolerance, min_agreement=min_agreement)
    write_labels(path, job.options.class_names)
    _warn_of_labels_file(path, job.options)
    return result


def export_bundle(
    model,
    path,
    formats=("savedmodel", "tflite"),
    *,
    data_name=None,
    assumed_normalization=False,
    verify=None,
    **options,
):
    """Export a student to several formats and describe them in `card.json` and `card.md`.

    Args:
        model: What `export_student` accepts. For a run folder the card also describes the training.
        path: Folder to write into: the artifacts, `card.json`, `card.md` and, with `class_names`,
            `labels.txt`.
        formats: Names of the formats, or `("all",)`.
        data_name: Name of the images, for the card.
        assumed_normalization: Whether `mean` and `std` are assumed, not known, for the card.
        verify: Dictionary from the name of a format to its `tolerance` and `min_agreement`, if they
            differ from the format's defaults.
        **options: `images`, `labels`, `fold` and the options of `export_student`.

    Returns:
        Dictionary of `Exported` by format.

    Raises:
        ValueError: As `export_student`, before anything is written.
        FileNotFoundError: Likewise.
        ImportError: Likewise.
        ExportMismatch: If a format was refused: an artifact does not compute what the student
            computes, or could not be written. The other formats are written nevertheless, described
            in the card, and in the attribute `exported` of the error.
    """
    wanted, verify = table.expand(formats), verify or {}
    for name, limits in verify.items():
        table.find(name, "verify")
        _check_limits(**limits)
    job, training = _job_and_training(model, path, wanted, options)
    if "tflite-int4" in wanted:
        layer_precisions(job.written, job.options.precision or {})
    described = {
        "data_name": data_name,
        "assumed_normalization": assumed_normalization,
        "training": training,
    }
    results, refused, earlier = {}, [], listed_files(path)
    with bar("writing and checking", len(wanted)) as advance:
        for name in wanted:
            advance(name, parts=0)
            try:
                results[name] = write_artifact(job, path, name, **verify.get(name, {}))
            except ExportMismatch as mismatch:
                refused.append(str(mismatch))
            except (ValueError, ImportError) as error:
                refused.append(f"{name}: {error}")
            else:
                # At once: an export that stops here leaves a card of the files that are there.
                write_card(path, job, results, **described)
            advance()
    left = [name for name in sorted(earlier - listed_files(path)) if (Path(path) / name).exists()]
    if left:
        log.warning(
            "These are of an earlier export to %s, and its card no longer describes them: %s",
            path,
            ", ".join(left),
        )
    _warn_of_labels_file(path, job.options)
    if refused:
        raise ExportMismatch("\n".join(refused), results)
    return results


def _check_limits(tolerance=None, min_agreement=None):
    """Refuse limits of a check that are no numbers of at least 0."""
    for name, limit in (("tolerance", tolerance), ("min_agreement", min_agreement)):
        if limit is not None:
            ranges.non_negative_number.check(limit, name)


def _job_and_training(model, path, formats, options):
    """The `ExportJob` of a student, and how it was made, after all checks of the arguments."""
    table.check_installed(formats)
    check_writable(path)
    for name in table.names():  # what a killed export left
        remove_leftovers(Path(path) / table.find(name).file_name)
    table.check_calibration(formats, options.get("calibration"))
    training = provenance_of(model)
    if isinstance(model, str | Path) and Path(model).is_dir():
        log.info("The student of %s is %s", model, find_student(model))
    job = prepare_job(model, **options)
    _warn_of_accuracy(job, training)
    return job, training


def _warn_of_accuracy(job, training):
    """Warn if the student hardly recognizes the labelled images, where there are enough of them.

    Args:
        job: `ExportJob`.
        training: What `provenance_of` returned. It says whether the student ever was better.
    """
    if job.labels is None or len(job.labels) < _ENOUGH_LABELS:
        return
    accuracy = np.mean(job.reference.argmax(axis=-1) == job.labels)
    classes = job.reference.shape[-1]
    if not is_near_chance(accuracy, classes):
        return
    result = (training or {}).get("result") or {}
    trained = result.get("accuracy_selected", result.get("accuracy_last"))
    if trained is not None and is_near_chance(trained / 100, classes):
        log.warning(
            "The student has learned hardly anything: its training ended with %.1f%% on the test "
            "images. See docs/troubleshooting.md#the-student-is-not-better",
            trained,
        )
    else:
        log.warning(
            "The student is hardly better than chance on the labelled images, with %.1f%% of %d: "
            "are they scaled as in its training, and the classes in the same order?",
            100 * accuracy,
            len(job.labels),
        )


def _warn_of_labels_file(path, options):
    """Warn of class names beside the files that may be of another student."""
    if options.class_names is None and (Path(path) / LABELS).exists():
        log.warning(
            "%s is not of this export, which has no `class_names`. If its names are those of "
            "another student, remove it.",
            Path(path) / LABELS,
        )
