import logging
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from letkd_keras.export import formats
from letkd_keras.export.batch_norm_folding import untrained_batch_norms
from letkd_keras.export.folding import fold as fold_model
from letkd_keras.export.loading import load_student
from letkd_keras.export.options import ExportOptions
from letkd_keras.export.verification import (
    check_labels,
    compare,
    images_for,
    logits_of,
    reload_outputs,
    verify_classify,
)
from letkd_keras.files import atomic_path

log = logging.getLogger("letkd_keras")


@dataclass(frozen=True)
class Exported:
    """An artifact that was written and verified.

    Attributes:
        path: The file or folder.
        format: Name of the format.
        bytes: Size on disk of all its files.
        parameters: Parameters of the model that was written.
        max_difference: Largest absolute difference of a logit from the student in Keras.
        agreement: Share of the tested images given the same top-1 class, in [0, 1].
        images: Number of images tested.
        accuracy_before: Share of the tested images that the student in Keras gets right, in
            [0, 1]; `None` without labels.
        accuracy: Likewise for the artifact.
        tolerance: Largest relative difference of a logit that was allowed; `None` for any.
        min_agreement: Smallest agreement that was allowed.
    """

    path: Path
    format: str
    bytes: int
    parameters: int
    max_difference: float
    agreement: float
    images: int
    accuracy_before: float | None = None
    accuracy: float | None = None
    tolerance: float | None = None
    min_agreement: float | None = None

    def __str__(self):
        text = (
            f"{self.path}, {self.bytes:,} bytes, max difference {self.max_difference:.1e}, "
            f"top-1 agreement {100 * self.agreement:.2f}% of {self.images} images"
        )
        if self.accuracy is not None:
            text += f", accuracy {100 * self.accuracy_before:.2f}% -> {100 * self.accuracy:.2f}%"
        return text


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
    """Write a student, with its KD layers and nothing else, in a format that ships.

    The artifact holds no teacher, no prototypes, no supervision outputs and no Python code; it
    gives logits, also where the model ends in a softmax. Before it appears at its place it is
    loaded in a fresh process without this package and must give the student's logits there.

    A batch normalisation that has seen no data is exported as it is, with a warning in the log. A
    folded model is exported like any other, and so is a student without KD layers.

    Args:
        model: A distilling model, a student, a `.keras` file of either, or a recipe's run folder.
        path: Folder to write into; made if missing. What is written is named
            `savedmodel/`, `student.tflite`, `student_float16.tflite`, `student_dynamic.tflite`,
            `student_int8.tflite`, `student_qat.tflite`, `student_pruned.tflite`,
            `student_clustered.tflite` or `student.onnx`.
        format: `"savedmodel"`, `"tflite"` (float32), `"tflite-float16"`, `"tflite-dynamic"` (int8
            weights), `"tflite-int8"` (int8 throughout), `"onnx"`, or what trains a little more to
            give the student's own probabilities: `"tflite-qat"` (int8 throughout),
            `"tflite-pruned"` and `"tflite-clustered"` (float32, small once compressed).
        images: Array [N, H, W, C] to verify on, normalised as the network takes them. `None`: the
            calibration images, or a few of standard normal noise from a fixed seed. Where format
            and weights leave only the order of the logits to compare, it is compared on real
            images alone: on noise it means nothing.
        labels: Their classes [N], for accuracies.
        fold: Whether to fold the student first (`letkd_keras.export.fold`): smaller, faster, equal.
        tolerance: Largest difference of a logit allowed, relative to the largest logit; `None` for
            the format's own, 1e-4 in float32.
        min_agreement: Smallest share of the images that must be given the student's class; `None`
            for the format's own, 0.98 in int8 and in those that are trained on.
        **options: Fields of `letkd_keras.export.ExportOptions`: `calibration` (int8 and
            what is trained on need it), `integer_io`, `mean`, `std`, `class_names`,
            `channels_first`, `opset`, `epochs`, `learning_rate`, `sparsity`, `clusters`.

    Returns:
        An `Exported`.

    Raises:
        FileNotFoundError: If `model` is a path that holds no model.
        ValueError: If the format is unknown, the model is not built or not functional, images or
            options do not fit it, or the folder cannot be written.
        ImportError: If a format's converter or runtime is not installed.
        ExportMismatch: If the artifact does not compute what the student computes (a
            `ValueError`). Nothing is written then.
    """
    formats.find(format)
    check_writable(path)
    job = prepare(model, images=images, labels=labels, fold=fold, **options)
    return write(job, path, format, tolerance=tolerance, min_agreement=min_agreement)


@dataclass(frozen=True)
class ExportJob:
    """A student ready to be written in any number of formats.

    Attributes:
        student: The student as it came.
        written: What is written: the student, folded or not.
        images: Images to verify on.
        labels: Their classes or `None`.
        real: Whether the images are images, not noise.
        reference: The student's logits of them in Keras.
        options: `ExportOptions`.
    """

    student: keras.Model
    written: keras.Model
    images: np.ndarray
    labels: np.ndarray | None
    real: bool
    reference: np.ndarray
    options: ExportOptions


def prepare(model, *, images=None, labels=None, fold=True, **options):
    """Load, check and fold a student; the arguments are those of `export_student`.

    Returns:
        An `ExportJob`.
    """
    student = load_student(model)
    options = ExportOptions(**options)
    options.check(student)
    if options.calibration is not None:
        images_for(student, options.calibration, argument="calibration")
    given = options.calibration if images is None else images
    images = images_for(student, given)
    labels = check_labels(labels, images)
    untrained = untrained_batch_norms(student)
    if untrained:
        log.warning(
            "batch normalisations of %r that have seen no data: %s", student.name, untrained
        )
    reference = logits_of(student, images)
    written = fold_model(student, images=images) if fold else student
    return ExportJob(student, written, images, labels, given is not None, reference, options)


def write(job, path, format, *, tolerance=None, min_agreement=None):
    """Write and verify one format of an `ExportJob`; see `export_student`."""
    form = formats.find(format)
    target = Path(path) / form.file_name
    tolerance = form.tolerance if tolerance is None else tolerance
    min_agreement = form.min_agreement if min_agreement is None else min_agreement
    with atomic_path(target) as aside:
        form.write(job.written, aside, job.options)
        logits = reload_outputs(form.runtime, aside, job.images)
        comparison = compare(job.reference, logits, job.labels)
        name = f"{format} of {job.student.name!r}"
        comparison.check(name, tolerance, min_agreement if job.real else None)
        if form.runtime == "savedmodel" and job.options.mean is not None:
            verify_classify(job.student, aside, job.options)
    log.info("%s: %s", target, comparison)
    return Exported(
        path=target,
        format=format,
        bytes=size_on_disk(target),
        parameters=job.written.count_params(),
        max_difference=comparison.max_difference,
        agreement=comparison.agreement,
        images=comparison.images,
        accuracy_before=comparison.accuracy_before,
        accuracy=comparison.accuracy,
        tolerance=tolerance,
        min_agreement=min_agreement,
    )


def check_writable(path):
    """Refuse a folder that cannot be made or written, before any long work.

    Raises:
        ValueError: If so, with the system's reason.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with atomic_path(Path(path) / ".probe") as probe:
            probe.write_bytes(b"")
        (Path(path) / ".probe").unlink()
    except OSError as error:
        raise ValueError(
            f"`path` must be a folder that can be written ({error.strerror}). "
            f"Received: path={str(path)!r}"
        ) from error


def size_on_disk(path):
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
