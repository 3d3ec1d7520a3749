import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_RELOAD = Path(__file__).with_name("reload.py")
_BATCH = 64
_RANDOM_IMAGES = 8


class ExportMismatch(ValueError):
    """An artifact that does not compute what the student computes."""


@dataclass(frozen=True)
class Comparison:
    """How an artifact's logits compare with the student's in Keras.

    Attributes:
        max_difference: Largest absolute difference of a logit.
        scale: Largest absolute logit of the student.
        agreement: Share of the images given the same top-1 class, in [0, 1].
        images: Number of images compared.
        accuracy_before: Share that the student gets right, in [0, 1]; `None` without labels.
        accuracy: Share that the artifact gets right.
    """

    max_difference: float
    scale: float
    agreement: float
    images: int
    accuracy_before: float | None = None
    accuracy: float | None = None

    def __str__(self):
        text = (
            f"max difference {self.max_difference:.1e}, top-1 agreement "
            f"{100 * self.agreement:.2f}% of {self.images} images"
        )
        if self.accuracy is not None:
            text += f", accuracy {100 * self.accuracy_before:.2f}% -> {100 * self.accuracy:.2f}%"
        return text

    def check(self, name, tolerance=None, min_agreement=None):
        """Refuse what is too far from the student.

        Args:
            name: What to call the artifact.
            tolerance: Largest difference allowed, relative to `scale`; `None` for any.
            min_agreement: Smallest agreement allowed; `None` for any.

        Raises:
            ExportMismatch: If one is exceeded, or a logit is not a number.
        """
        if not np.isfinite(self.max_difference):
            raise ExportMismatch(f"{name} gives logits that are not finite.")
        if tolerance is not None and not self.max_difference <= tolerance * self.scale:
            raise ExportMismatch(
                f"{name} differs from the student by more than {tolerance:.0e} of its logits' "
                f"scale {self.scale:.3g}: {self}."
            )
        if min_agreement is not None and not self.agreement >= min_agreement:
            raise ExportMismatch(
                f"{name} agrees with the student on less than {100 * min_agreement:.1f}% of the "
                f"images: {self}."
            )


def compare(reference, logits, labels=None):
    """A `Comparison` of an artifact's logits with the student's.

    Args:
        reference: The student's logits, [N, classes].
        logits: The artifact's, of the same shape.
        labels: Classes [N], for accuracies.

    Raises:
        ExportMismatch: If the shapes differ.
    """
    if logits.shape != reference.shape:
        raise ExportMismatch(
            f"The artifact gives outputs of shape {logits.shape}, the student of {reference.shape}."
        )
    chosen, ours = logits.argmax(-1), reference.argmax(-1)
    return Comparison(
        max_difference=float(np.max(np.abs(logits - reference))),
        scale=float(np.max(np.abs(reference))),
        agreement=float(np.mean(chosen == ours)),
        images=len(reference),
        accuracy_before=None if labels is None else float(np.mean(ours == labels)),
        accuracy=None if labels is None else float(np.mean(chosen == labels)),
    )


def logits_of(student, images):
    """The student's logits in Keras, float32 [N, classes], in inference mode."""
    starts = range(0, len(images), _BATCH)
    outputs = [student(images[start : start + _BATCH], training=False) for start in starts]
    return np.concatenate([np.asarray(output).astype("float32") for output in outputs])


def reload_outputs(runtime, artifact, images):
    """An artifact's outputs, float32 [N, classes], from a fresh process without this package.

    Args:
        runtime: A runtime of `reload.py`: `"savedmodel"`, `"classify"`, `"tflite"` or `"onnx"`.
        artifact: Its path.
        images: Array [N, ...], float32, or uint8 for `"classify"`.

    Raises:
        ExportMismatch: If it cannot be loaded or run, with the end of what that process said.
    """
    return _in_fresh_process(runtime, artifact, images)


def latency_ms(runtime, artifact, images, threads=1, repeats=30):
    """Milliseconds that an artifact takes for a batch, in a fresh process.

    Args:
        runtime: As for `reload_outputs`.
        artifact: Its path.
        images: The batch.
        threads: Threads of the runtime.
        repeats: Number of runs timed, after three that are not.

    Returns:
        The shortest of the runs: what makes others longer are other programs.

    Raises:
        ExportMismatch: If it cannot be loaded or run.
    """
    return 1000 * float(np.min(_in_fresh_process(runtime, artifact, images, threads, repeats)))


def _in_fresh_process(runtime, artifact, images, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder, "images.npy"), Path(folder, "outputs.npy")
        np.save(given, images)
        # -I: neither this folder nor PYTHONPATH is searched, only what is installed.
        command = [sys.executable, "-I", _RELOAD, runtime, Path(artifact).resolve(), given, told]
        done = subprocess.run(
            [str(part) for part in (*command, *arguments)],
            capture_output=True,
            text=True,
            cwd=folder,
        )
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise ExportMismatch(f"{artifact} cannot be reloaded in a fresh process: {last}")
        return np.load(told)


def verify_classify(student, artifact, options):
    """Check a SavedModel's endpoint from uint8 images to probabilities.

    Raises:
        ExportMismatch: If it does not give the softmax of the student's logits to 1e-4.
    """
    shape = (_RANDOM_IMAGES, *student.input_shape[1:])
    shape = tuple(32 if size is None else size for size in shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    logits = logits_of(student, options.normalise(pixels.astype("float32")))
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    expected = exponentials / exponentials.sum(-1, keepdims=True)
    difference = np.max(np.abs(reload_outputs("classify", artifact, pixels) - expected))
    if not difference <= 1e-4:
        raise ExportMismatch(
            f"`classify` of {student.name!r} differs from the student's probabilities by "
            f"{difference:.2e}."
        )


def images_for(student, images=None, argument="images"):
    """Images to run a student on, checked; a few of standard normal noise if there are none.

    Args:
        student: Functional `keras.Model`.
        images: Array [N, ...] or `None`.
        argument: What an error calls the images.

    Raises:
        ValueError: If they are not of the shape that the student takes.
    """
    shape = student.input_shape[1:]
    if images is None:
        if None in shape:
            raise ValueError(
                f"`{argument}` must be given for a model whose input size is open. "
                f"Received: {argument}=None, an input of shape {student.input_shape}"
            )
        noise = np.random.default_rng(0).standard_normal((_RANDOM_IMAGES, *shape))
        return noise.astype("float32")
    images = np.asarray(images, "float32")
    fits = images.ndim == len(shape) + 1 and len(images) > 0
    if not fits or any(
        size not in (None, given) for size, given in zip(shape, images.shape[1:], strict=True)
    ):
        raise ValueError(
            f"`{argument}` must be of the shape that the model takes, {student.input_shape}. "
            f"Received: {argument} of shape {images.shape}"
        )
    return images


def check_labels(labels, images):
    """Labels as an array [N], or `None`.

    Raises:
        ValueError: If there is not one for each image.
    """
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape != (len(images),):
        raise ValueError(
            f"`labels` must be one class for each of the {len(images)} images. "
            f"Received: labels of shape {labels.shape}"
        )
    return labels
