"""Writing a student in one format or several, each verified."""

import logging
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from letkd_keras.chance import is_near_chance
from letkd_keras.commands.progress import bar
from letkd_keras.export.batch_norm_folding import untrained_batch_norms
from letkd_keras.export.card import listed_files, write_card
from letkd_keras.export.card_file import LABELS, write_labels
from letkd_keras.export.comparison import (
    Comparison,
    ExportMismatch,
    check_classify,
    compare,
    outputs_of,
)
from letkd_keras.export.folding import fold as fold_model
from letkd_keras.export.formats import table
from letkd_keras.export.formats.litert_quantizer import layer_precisions
from letkd_keras.export.images_and_labels import check_labels, images_for, pixels_for_classify
from letkd_keras.export.input_scaling import takes_pixels, with_pixel_input
from letkd_keras.export.inverse_rms import with_calibrated_floors
from letkd_keras.export.loading import load_student
from letkd_keras.export.new_process import reload_in_one_process
from letkd_keras.export.options import ExportOptions
from letkd_keras.export.quantization_noise import always_zero, layer_noise
from letkd_keras.export.student_folder import provenance_of
from letkd_keras.files import atomic_path, check_writable, remove_leftovers, size_on_disk
from letkd_keras.functional.graph import layers_inside, nodes

log = logging.getLogger(__name__)

# Labelled images of which the accuracy is compared with that of guessing.
_ENOUGH_LABELS = 100

# Names of a TensorFlow graph. A path, of the model or of a weight, also has a first character.
_FIRST, _LATER = r"[A-Za-z0-9.]", r"[A-Za-z0-9_.\\/>-]*"


@dataclass(frozen=True, kw_only=True)
class Exported(Comparison):
    """An artifact that was written and verified; `open` and `pathlib.Path` take it as its path.

    Attributes:
        max_difference, scale, agreement, num_images, accuracy_before, accuracy: Those of its
            `letkd_keras.export.comparison.Comparison` with the student in Keras.
        path: The file or folder.
        format: Name of the format.
        bytes: Size of all its files.
        parameters: Number of parameters of the model that was written.
        tolerance: Largest relative difference of a logit that was allowed; `None` for any.
        min_agreement: Smallest agreement that was allowed.
        layer_noise: List of `LayerNoise`, if it was asked for and the format is quantized.
    """

    path: Path
    format: str
    bytes: int
    parameters: int
    tolerance: float | None = None
    min_agreement: float | None = None
    layer_noise: list | None = None

    def __str__(self):
        return f"{self.path}, {self.bytes:,} bytes, {super().__str__()}"

    def __fspath__(self):
        return str(self.path)


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
        model: A distiller, a student, a `.keras` file of either, a recipe's run folder, or a
            sweep's folder.
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
            format's default, 0.98 in int8 and for the formats that train.
        **options: Fields of `letkd_keras.export.ExportOptions`: `calibration` (needed in int8 and
            by the formats that train), `integer_io`, `input`, `output`, `mean`, `std`, `crop`,
            `class_names`, `snr`, `precision`, `channels_first`, `opset`, `epochs`, `learning_rate`,
            `sparsity`, `clusters`, `seed`.

    Returns:
        `Exported`.

    Raises:
        FileNotFoundError: If `model` is a path without a model.
        ValueError: If the format is unknown, the model is not built or not functional or takes
            images [N, C, H, W], images or options do not fit it, or the folder cannot be written.
        ImportError: If the format's converter or runtime is not installed.
        ExportMismatch: If the artifact does not compute what the student computes (a
            `ValueError`). Nothing is written then.
    """
    options |= {"images": images, "labels": labels, "fold": fold}
    job, _ = _job_and_training(model, path, [format], options)
    result = write(job, path, format, tolerance=tolerance, min_agreement=min_agreement)
    write_labels(path, job.options.class_names)
    _check_labels_file(path, job.options)
    return result


def export_bundle(
    model,
    path,
    formats=("savedmodel", "tflite", "onnx"),
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
    wanted = table.expand(formats)
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
                results[name] = write(job, path, name, **(verify or {}).get(name, {}))
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
    _check_labels_file(path, job.options)
    if refused:
        raise ExportMismatch("\n".join(refused), results)
    return results


def _job_and_training(model, path, formats, options):
    """The `ExportJob` of a student, and how it was made, after all checks of the arguments."""
    table.check_installed(formats)
    check_writable(path)
    for name in table.names():  # what a killed export left
        remove_leftovers(Path(path) / table.find(name).file_name)
    table.check_calibration(formats, options.get("calibration"))
    training = provenance_of(model)
    job = prepare(model, **options)
    _check_accuracy(job, training)
    return job, training


@dataclass(frozen=True)
class ExportJob:
    """A student that can be written in any number of formats.

    Attributes:
        student: The student before folding.
        written: The model to write: the student, folded or not, from the artifacts' images to
            logits.
        images: Images to verify on, as the artifacts take them.
        labels: Their classes, or `None`.
        real: Whether the images are real ones, not noise.
        reference: What the student in Keras returns for these images.
        options: `ExportOptions`. Its calibration images are as the artifacts take them.
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
        `ExportJob`.
    """
    student = load_student(model)
    _check_names(student)
    _check_channels_last(student)
    rescales = takes_pixels(student)
    options = ExportOptions(**options).for_student(student, rescales)
    if options.calibration is not None:
        calibration = images_for(student, options.calibration, "calibration", options)
        options = replace(options, calibration=calibration)
    real = images is not None or options.calibration is not None
    if images is None and real:
        images = options.calibration
    else:
        images = images_for(student, images, options=options)
    labels = check_labels(labels, images, student.output_shape[-1])
    untrained = untrained_batch_norms(student)
    if untrained:
        log.warning(
            "batch normalizations of %r whose statistics were never updated: %s",
            student.name,
            untrained,
        )
    reference = outputs_of(student, images, options)
    few = options.student_images(images[:64])
    written = fold_model(student, images=few) if fold else student
    if options.input == "pixels" and options.mean is not None:
        student_alone, written = written, with_pixel_input(written, options.mean, options.std)
        if written is not student_alone and rescales:
            log.warning(
                "%r rescales pixels itself, and its files normalize them with `mean` and `std` "
                "before that: leave out `mean` and `std` if it was trained on pixels.",
                student.name,
            )
    return ExportJob(student, written, images, labels, real, reference, options)


def _check_names(student):
    """Refuse names that TensorFlow does not accept. Those of inputs are not written."""
    first = {student.name, *(weight.path.split("/")[0] for weight in student.weights)}
    names = [
        layer.name
        for layer in [student, *layers_inside(student)]
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    refused = [
        name
        for name in names
        if not re.fullmatch(_FIRST + _LATER if name in first else _LATER, name)
    ]
    if refused:
        raise ValueError(
            "`model` and its layers must have names of the letters A to Z and a to z, digits and "
            "_.-, which do not begin with _ or -, for TensorFlow. "
            f"Received: {', '.join(map(repr, refused))}"
        )


def _check_channels_last(student):
    """Refuse a student of images [N, C, H, W], which files and card would describe wrongly."""
    channels, *size = student.input_shape[1:]
    if channels not in (1, 3) or any(side in (1, 3) for side in size):
        return
    for node in nodes(student):
        data_format = getattr(node.operation, "data_format", None)
        if data_format is not None and not isinstance(node.operation, keras.layers.Flatten):
            if data_format == "channels_first":
                raise ValueError(
                    "`model` must take images [N, H, W, C]: put `keras.Input((H, W, C))` and "
                    "`keras.layers.Permute((3, 1, 2))` before it in a `keras.Sequential`. "
                    f"Received: model={student.name!r} with images {student.input_shape}, whose "
                    f"layer {node.operation.name!r} has data_format='channels_first'"
                )
            return


def _check_accuracy(job, training):
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


def write(job, path, format, *, tolerance=None, min_agreement=None):
    """Write and verify one format of an `ExportJob`; see `export_student`."""
    file_format = table.find(format)
    target = Path(path) / file_format.file_name
    tolerance = file_format.tolerance if tolerance is None else tolerance
    min_agreement = file_format.min_agreement if min_agreement is None else min_agreement
    with atomic_path(target) as temporary:
        file_format.write(job.written, temporary, job.options)
        images = {file_format.runtime: job.images}
        if file_format.runtime == "savedmodel" and job.options.knows_pixels:
            images["classify"] = pixels_for_classify(job.images)
        name = f"{format} of {job.student.name!r}"
        try:
            outputs = reload_in_one_process(temporary, images)
            comparison = compare(job.reference, outputs[file_format.runtime], job.labels)
            comparison.check(name, tolerance, min_agreement if job.real else None)
        except ExportMismatch as mismatch:
            if file_format.needs_calibration and file_format.is_quantized:
                _check_ranges(name, job, mismatch)
            raise
        if "classify" in images:
            check_classify(job.student, images["classify"], outputs["classify"], job.options)
        noise = None
        if job.options.snr and file_format.is_quantized:
            noise = _noise(job, file_format, temporary)
    log.debug("%s: %s", target, comparison)
    return Exported(
        path=target,
        format=format,
        bytes=size_on_disk(target),
        parameters=job.written.count_params(),
        tolerance=tolerance,
        min_agreement=min_agreement,
        layer_noise=noise,
        **vars(comparison),
    )


def _check_ranges(name, job, mismatch):
    """Say which layers have no range, if this may be why a calibrated file fails."""
    layers = always_zero(job.written, job.options.calibration)
    if layers:
        reason = str(mismatch).splitlines()[-1].strip()
        raise ExportMismatch(
            f"{name} must have layers whose outputs are not 0 for all `calibration` images, since "
            "such outputs have no range: calibrate on other images, or export tflite-qat or "
            f"tflite-dynamic. Received: only zeros of {', '.join(map(repr, layers))}, and then: "
            f"{reason}"
        ) from mismatch


def _noise(job, file_format, artifact):
    """`LayerNoise` of a quantized artifact, against the same model in float32."""
    model, images = job.written, job.images
    if file_format.needs_calibration:
        images = job.options.calibration
        model = with_calibrated_floors(model, images)
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "float32.tflite"
        table.find("tflite").write(model, reference, job.options)
        return layer_noise(reference, artifact, images, [layer.name for layer in model.layers])


def _check_labels_file(path, options):
    """Warn of class names beside the files that may be of another student."""
    if options.class_names is None and (Path(path) / LABELS).exists():
        log.warning(
            "%s is not of this export, which has no `class_names`. If its names are those of "
            "another student, remove it.",
            Path(path) / LABELS,
        )
