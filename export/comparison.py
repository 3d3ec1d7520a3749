"""Comparing exported artifacts with the student in Keras."""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import softmax

from letkd_keras.data.one_hot import classes_of
from letkd_keras.export import formats
from letkd_keras.export.card_file import options_of, read_card
from letkd_keras.export.input_scaling import takes_pixels as student_takes_pixels
from letkd_keras.export.loading import load_student
from letkd_keras.files import checksum
from letkd_keras.functional.fingerprint import fingerprint
from letkd_keras.shapes import shapes_agree

_RELOAD = Path(__file__).parent / "formats" / "reload.py"
_BATCH = 64
_RANDOM_IMAGES = 8


class ExportMismatch(ValueError):
    """An artifact does not compute what the student computes, or could not be written.

    Attributes:
        exported: `Exported` by format, what `export_bundle` wrote nevertheless.
    """

    def __init__(self, message, exported=None):
        super().__init__(message)
        self.exported = exported or {}


@dataclass(frozen=True)
class Comparison:
    """How an artifact's logits compare with the student's in Keras.

    Attributes:
        max_difference: Largest absolute difference of a logit.
        scale: Largest absolute logit of the student.
        agreement: Share of the images with the same top-1 class, in [0, 1].
        num_images: Number of images compared.
        accuracy_before: Accuracy of the student, in [0, 1]; `None` without labels.
        accuracy: Accuracy of the artifact likewise.
    """

    max_difference: float
    scale: float
    agreement: float
    num_images: int
    accuracy_before: float | None = None
    accuracy: float | None = None

    def __str__(self):
        text = (
            f"max difference {self.max_difference:.1e}, top-1 agreement "
            f"{100 * self.agreement:.2f}% of {self.num_images} images"
        )
        if self.accuracy is not None:
            text += f", accuracy {100 * self.accuracy_before:.2f}% -> {100 * self.accuracy:.2f}%"
        return text

    def check(self, name, tolerance=None, min_agreement=None):
        """Refuse an artifact that differs too much from the student.

        Args:
            name: Name of the artifact for the error.
            tolerance: Largest difference allowed, relative to `scale`; `None` for any.
            min_agreement: Smallest agreement allowed; `None` for any.

        Raises:
            ExportMismatch: If a limit is exceeded, or a logit is not finite.
        """
        if not np.isfinite(self.max_difference):
            raise ExportMismatch(f"{name} returns logits that are not finite.")
        if tolerance is not None and not self.max_difference <= tolerance * self.scale:
            raise ExportMismatch(
                f"{name} differs from the student by more than {tolerance:.0e} of its logits' "
                f"scale {self.scale:.3g}: {self}."
            )
        if min_agreement is not None and not self.agreement >= min_agreement:
            raise ExportMismatch(
                f"{name} agrees with the student on less than {100 * min_agreement:.1f}% of the "
                f"images: {self}. docs/export.md#int8 says what helps."
            )


def compare(reference, logits, labels=None):
    """Compare an artifact's logits with the student's.

    Args:
        reference: The student's logits [N, classes].
        logits: The artifact's logits, of the same shape.
        labels: Classes [N], for accuracies.

    Returns:
        `Comparison`.

    Raises:
        ExportMismatch: If the shapes differ.
    """
    if logits.shape != reference.shape:
        raise ExportMismatch(
            f"The artifact returns outputs of shape {logits.shape}, the student {reference.shape}."
        )
    classes, expected = logits.argmax(-1), reference.argmax(-1)
    return Comparison(
        max_difference=float(np.max(np.abs(logits - reference))),
        scale=float(np.max(np.abs(reference))),
        agreement=float(np.mean(classes == expected)),
        num_images=len(reference),
        accuracy_before=None if labels is None else float(np.mean(expected == labels)),
        accuracy=None if labels is None else float(np.mean(classes == labels)),
    )


def verify_artifacts(folder, model, *, images=None, labels=None):
    """Compare every artifact of a card with the student, each reloaded in a new process.

    Loading a SavedModel can run code that it contains: the artifacts must be of a source that you
    trust. Files outside the folder are never opened.

    Args:
        folder: Folder with `card.json`, as an export writes it.
        model: The student that was exported, as `export_student` accepts it.
        images: Array [N, H, W, C], normalized as for the student, or uint8 if the card says how
            pixels are normalized; `None`: eight images of noise, for which the top-1 classes are
            not compared.
        labels: Their classes, integers [N] or [N, 1], or one-hot, for accuracies.

    Returns:
        Dictionary by format: a `Comparison`, or the `ExportMismatch` if the artifact failed.

    Raises:
        FileNotFoundError: If there is no card or no model.
        ValueError: If the card is damaged, describes another student or lists a file outside the
            folder, or the images do not fit.
        ImportError: If what runs an artifact is not installed.
    """
    folder, card = Path(folder), read_card(folder)
    formats.check_installed(card["artifacts"], to_write=False)
    student = load_student(model)
    if card["student"] != fingerprint(student):
        raise ValueError(
            f"`model` must be the student that was exported to {str(folder)!r}: its weights differ "
            f"from those in the card. Received: model={student.name!r}"
        )
    real, options = images is not None, options_of(card)
    images = images_for(student, images, options=options)
    labels = check_labels(labels, images, student.output_shape[-1])
    reference = outputs_of(student, images, options)
    results = {}
    for name, artifact in card["artifacts"].items():
        try:
            file = folder / artifact["file"]
            if not file.exists() or checksum(file) != artifact["sha256"]:
                raise ExportMismatch(f"{file} is missing, or not the file that the card lists.")
            logits = reload_outputs(formats.find(name).runtime, file, images)
            results[name] = compare(reference, logits, labels)
            least = artifact["min_agreement"] if real else None
            results[name].check(name, artifact["tolerance"], least)
        except ExportMismatch as mismatch:
            results[name] = mismatch
    return results


def logits_of(student, images):
    """Compute the student's logits in Keras, float32 [N, classes], in inference mode."""
    starts = range(0, len(images), _BATCH)
    outputs = [student(images[start : start + _BATCH], training=False) for start in starts]
    return np.concatenate([np.asarray(output).astype("float32") for output in outputs])


def outputs_of(student, images, options):
    """Compute in Keras what an artifact should return for images.

    Args:
        student: Functional `keras.Model` from images to logits.
        images: Images as the artifact takes them.
        options: `ExportOptions`.

    Returns:
        float32 [N, classes]: logits or probabilities.
    """
    logits = logits_of(student, options.student_images(images))
    return softmax(logits, axis=-1) if options.output == "probabilities" else logits


def reload_outputs(runtime, artifact, images, *timing):
    """Run an artifact in a new process without this package.

    Args:
        runtime: A runtime of `reload.py`: `"savedmodel"`, `"classify"`, `"tflite"` or `"onnx"`.
        artifact: Its path. Loading a SavedModel can run code that it contains.
        images: Array [N, ...], float32, or uint8 for `"classify"`.
        *timing: Number of threads and of runs, to measure times (`latency_ms`).

    Returns:
        Its outputs, float32 [N, classes]; with `timing` the seconds of each run.

    Raises:
        ExportMismatch: If it cannot be loaded or run, with the end of that process's messages.
    """
    return reload_in_one_process(artifact, {runtime: images}, *timing)[runtime]


def reload_in_one_process(artifact, images, threads=1, repeats=0):
    """Do what `reload_outputs` does for several runtimes of an artifact, in one new process.

    Args:
        artifact: Its path.
        images: Dictionary from the runtimes to their images.
        threads: Number of threads.
        repeats: Number of runs to measure, or 0 for outputs.

    Returns:
        Dictionary from the runtimes to what `reload_outputs` returns.

    Raises:
        ExportMismatch: If a runtime cannot load or run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        # -I: modules are searched among the installed ones only, not in this folder or PYTHONPATH.
        command = [sys.executable, "-I", _RELOAD, Path(artifact).resolve(), threads, repeats]
        outputs = {runtime: Path(folder, f"{runtime}_outputs.npy") for runtime in images}
        for runtime, file in outputs.items():
            inputs = Path(folder, f"{runtime}_images.npy")
            np.save(inputs, images[runtime])
            command += [runtime, inputs, file]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, cwd=folder
        )
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise ExportMismatch(f"{artifact} cannot be reloaded in a new process: {last}")
        return {runtime: np.load(file) for runtime, file in outputs.items()}


def latency_ms(runtime, artifact, images, threads=1, repeats=30):
    """Measure how long an artifact takes for a batch, in a new process.

    Args:
        runtime: As for `reload_outputs`.
        artifact: Its path.
        images: The batch.
        threads: Threads of the runtime.
        repeats: Number of runs timed, after three that are not.

    Returns:
        Milliseconds of the fastest run. Slower runs were disturbed by other programs.

    Raises:
        ExportMismatch: If it cannot be loaded or run.
    """
    return 1000 * float(np.min(reload_outputs(runtime, artifact, images, threads, repeats)))


def pixels_for_classify(images):
    """Random uint8 images [N, H, W, C] for the endpoint `classify`, of the size of `images`."""
    shape = (_RANDOM_IMAGES, *images.shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


def check_classify(student, pixels, probabilities, options):
    """Check what the endpoint `classify` of a SavedModel returned.

    Args:
        student: Functional `keras.Model` from normalized images to logits.
        pixels: uint8 images.
        probabilities: What the endpoint returned for them.
        options: `ExportOptions`.

    Raises:
        ExportMismatch: If its probabilities differ by more than 1e-4 from the student's.
    """
    logits = logits_of(student, options.normalize(pixels.astype("float32")))
    difference = np.max(np.abs(probabilities - softmax(logits, axis=-1)))
    if not difference <= 1e-4:
        raise ExportMismatch(
            f"`classify` of {student.name!r} differs from the student's probabilities by "
            f"{difference:.2e}."
        )


def images_for(student, images=None, argument="images", options=None):
    """Check images to run a student or its artifacts on; without images, make eight of noise.

    Args:
        student: Functional `keras.Model`.
        images: Array [N, ...] or `None`.
        argument: Name of the argument for the error.
        options: `ExportOptions` for images as the artifacts take them; `None` for images as the
            student takes them, which are uint8 only if it rescales pixels itself.

    Returns:
        float32 [N, ...].

    Raises:
        ValueError: If they are no array, their shape is not that of the student's input, they are
            not finite, or not normalized as the options say or the student needs.
    """
    takes_pixels = options is not None and options.input == "pixels"
    shape = student.input_shape[1:]
    if images is None:
        if None in shape:
            raise ValueError(
                f"`{argument}` must be given for a model whose input size is open. "
                f"Received: {argument}=None, an input of shape {student.input_shape}"
            )
        rng, shape = np.random.default_rng(0), (_RANDOM_IMAGES, *shape)
        noise = rng.integers(0, 256, shape) if takes_pixels else rng.standard_normal(shape)
        return noise.astype("float32")
    given, images = images, np.asarray(images)
    if images.dtype == object:
        raise ValueError(
            f"`{argument}` must be an array; `np.concatenate([x for x, _ in data_set])` makes one "
            f"of a data set. Received: a {type(given).__name__}"
        )
    if not (images.size and shapes_agree(shape, images.shape[1:])):
        raise ValueError(
            f"`{argument}` must be of the shape that the model takes, {student.input_shape}. "
            f"Received: {argument} of shape {images.shape}"
        )
    if not np.all(np.isfinite(images)):
        raise ValueError(f"`{argument}` must be finite. Received: {argument} with NaN or infinity")
    if options is None:
        if images.dtype == np.uint8 and not student_takes_pixels(student):
            raise ValueError(
                f"`{argument}` must be normalized as for the student. "
                f"Received: {argument} of type uint8"
            )
        return images.astype("float32")
    return options.artifact_images(images, argument)


def check_labels(labels, images, classes):
    """Check that there is one label for each image.

    Args:
        labels: Integers [N] or [N, 1], one-hot labels [N, classes], or `None`.
        images: The images [N, ...].
        classes: Number of classes.

    Returns:
        Array [N], or `None`.

    Raises:
        ValueError: If the number is another one, or a label is not a class.
    """
    if labels is None:
        return None
    labels = classes_of(labels, classes)
    if labels.shape != (len(images),):
        raise ValueError(
            f"`labels` must be one class for each of the {len(images)} images. "
            f"Received: labels of shape {labels.shape}"
        )
    if not np.all((labels >= 0) & (labels < classes) & (labels % 1 == 0)):
        raise ValueError(
            f"`labels` must be integers from 0 to {classes - 1}, the classes of the model. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels
