from dataclasses import dataclass, replace

import numpy as np

from letkd_keras import ranges
from letkd_keras.data.normalization import scale_and_shift

_SLACK = 1.0  # steps of a pixel: what resizing may exceed 0 to 255 by

# Range of each number, here and on the command line.
RANGES = {
    "opset": ranges.Integer(13, 18),
    "epochs": ranges.positive_integer,
    "learning_rate": ranges.positive_number,
    "sparsity": ranges.positive_fraction,
    "clusters": ranges.Integer(2),
    "seed": ranges.seed,
}
INPUTS = ("pixels", "normalized")
OUTPUTS = ("logits", "probabilities")
PRECISIONS = ("int4", "int8", "float32")


@dataclass(frozen=True)
class ExportOptions:
    """What some formats need besides the student.

    Attributes:
        calibration: Training images [N, H, W, C], normalized for the student. They may be uint8 if
            `mean` and `std` are given or the student rescales pixels itself.
            `tflite-int8`, `tflite-int16x8` and `tflite-qat` measure the ranges of activations on
            them; `tflite-qat`, `tflite-pruned` and `tflite-clustered` train on them.
        integer_io: Whether `tflite-int8` has integer inputs and outputs instead of float32: uint8
            pixels, or int8 for normalized images, and int8 outputs. Scale and zero point are in
            the file.
        input: `"pixels"`: artifacts take pixels from 0 to 255 and normalize them. `"normalized"`:
            they take what the student takes. `None`: pixels if `mean` and `std` are given or the
            student rescales pixels itself.
        output: `"logits"` or `"probabilities"`, what artifacts return.
        mean: Mean of each channel, of pixels in [0, 1], that the student's images are normalized
            with; or one number for all channels.
        std: Standard deviation of each channel, likewise. If the artifact's pixels are known, a
            SavedModel also has the endpoint `classify`, from uint8 images to probabilities.
        crop: Share of an image's shorter side that the student sees in evaluation, for the card.
        class_names: Name of each class, for labels.txt, `classify` and the card.
        snr: Whether to compute the signal-to-noise ratio of each layer for the quantized TFLite
            formats.
        precision: Types of the weights of single layers in `tflite-int4`: a dictionary from the
            name of a layer, or a pattern such as `"kd_*"`, to `"int4"`, `"int8"` or `"float32"`. A
            later entry has priority. `None`: int4 everywhere.
        channels_first: Whether ONNX takes images [N, C, H, W].
        opset: Version of the ONNX operators, 13 to 18. From 18 on the converter leaves more
            transpositions around averages.
        epochs: Passes over `calibration` of the formats that train; `None`: 10 for
            `tflite-pruned`, 3 for the others.
        learning_rate: Learning rate of their optimizer, Adam; `None`: 1e-5 for `tflite-qat`,
            3e-4 for `tflite-pruned`, 1e-4 for `tflite-clustered`.
        sparsity: Share of each kernel that `tflite-pruned` sets to zero.
        clusters: Largest number of different values in each kernel of `tflite-clustered`.
        seed: Seed of the trainings of the formats that train.
    """

    calibration: np.ndarray | None = None
    integer_io: bool = False
    input: str | None = None
    output: str = "logits"
    mean: float | tuple | None = None
    std: float | tuple | None = None
    crop: float = 1.0
    class_names: tuple | None = None
    snr: bool = False
    precision: dict | None = None
    channels_first: bool = False
    opset: int = 17
    epochs: int | None = None
    learning_rate: float | None = None
    sparsity: float = 0.5
    clusters: int = 16
    seed: int = 0

    def check(self, student):
        """Refuse options that are out of range or do not fit the student.

        Raises:
            ValueError: If so.
        """
        for name, values in (("input", (None, *INPUTS)), ("output", OUTPUTS)):
            if getattr(self, name) not in values:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(str, values))}. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        for layer, value in (self.precision or {}).items():
            if value not in PRECISIONS:
                raise ValueError(
                    f"`precision` must have values of {', '.join(PRECISIONS)}. "
                    f"Received: {layer}={value}"
                )
        if not 0 < self.crop <= 1:
            raise ValueError(f"`crop` must be in (0, 1]. Received: crop={self.crop}")
        if (self.mean is None) != (self.std is None):
            raise ValueError(
                "`mean` and `std` must be given together. "
                f"Received: mean={self.mean}, std={self.std}"
            )
        if self.std is not None and not np.all(np.asarray(self.std) > 0):
            raise ValueError(f"`std` must be positive. Received: std={self.std}")
        classes = student.output_shape[-1]
        if self.class_names is not None and len(self.class_names) != classes:
            raise ValueError(
                f"`class_names` must name the {classes} classes of the student. "
                f"Received: {len(self.class_names)} names"
            )
        for name, values in RANGES.items():
            if getattr(self, name) is not None:
                values.check(getattr(self, name), name)

    def for_student(self, student, takes_pixels):
        """Check the options and decide what the artifacts of a student take.

        Args:
            student: Functional `keras.Model`.
            takes_pixels: Whether the student itself rescales pixels from 0 to 255.

        Returns:
            `ExportOptions` whose `input` is not `None`, with `mean` and `std` as tuples of a number
            for each channel and `class_names` as texts of one line each.

        Raises:
            ValueError: If an option does not fit, or pixels are wanted whose normalization is not
                known.
        """
        channels, names = student.input_shape[-1], self.class_names
        options = replace(
            self,
            mean=_per_channel(self.mean, channels, "mean"),
            std=_per_channel(self.std, channels, "std"),
            class_names=None if names is None else tuple(map(_in_one_line, names)),
        )
        options.check(student)
        known = self.mean is not None or takes_pixels
        if self.input == "pixels" and not known:
            raise ValueError(
                "`mean` and `std` must be given for `input` 'pixels', since the student does not "
                f"rescale pixels itself. Received: mean={self.mean}, std={self.std}"
            )
        return replace(options, input=self.input or ("pixels" if known else "normalized"))

    @property
    def knows_pixels(self):
        """Whether it is known how an artifact gets from pixels to its input."""
        return self.input == "pixels" or self.mean is not None

    def normalize(self, pixels):
        """Normalize float32 pixels from 0 to 255 (NumPy or TensorFlow), as in training."""
        if self.mean is None:
            return pixels
        scale, shift = scale_and_shift(self.mean, self.std)
        return pixels * scale + shift

    def artifact_images(self, images, argument="images"):
        """Convert images to what the artifacts take.

        Args:
            images: What the student takes [N, H, W, C]; or uint8, if it is known how they are
                normalized. Pixels are rounded to integers, as those of a camera are.
            argument: Name of the argument for the error.

        Returns:
            float32 [N, H, W, C].

        Raises:
            ValueError: If they cannot have been normalized with `mean` and `std`, or are uint8 and
                it is not known how they are normalized.
        """
        is_raw = np.asarray(images).dtype == np.uint8
        if is_raw and not self.knows_pixels:
            raise ValueError(
                f"`{argument}` must be normalized as for the student, or `mean` and `std` must be "
                "given, 0 and 1/255 for a student that takes pixels from 0 to 255. "
                f"Received: {argument} of type uint8 without them"
            )
        images = np.asarray(images, "float32")
        if self.input != "pixels":
            return self.normalize(images) if is_raw else images
        if not is_raw:
            if self.mean is None:  # the student rescales pixels itself
                return images
            scale, shift = scale_and_shift(self.mean, self.std)
            images = (images - shift) / scale
        if images.size and (images.min() < -_SLACK or images.max() > 255 + _SLACK):
            raise ValueError(
                f"`{argument}` must be uint8, or normalized with `mean` and `std`, so that pixels "
                f"are from 0 to 255. Received: {argument} with pixels from {images.min():.4g} to "
                f"{images.max():.4g}"
            )
        return np.clip(np.rint(images), 0, 255)

    def student_images(self, images):
        """Convert images that an artifact takes to what the student takes."""
        return self.normalize(images) if self.input == "pixels" else images


def _in_one_line(name):
    """The name of a class as a line of labels.txt, which is its name everywhere else, too."""
    return " ".join(str(name).split())


def _per_channel(values, channels, name):
    """A number for each channel as a tuple of floats, from one number or as many as channels."""
    if values is None:
        return None
    try:
        numbers = np.asarray(values, "float64")
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.ndim > 1 or numbers.size not in (1, channels) or not np.all(np.isfinite(numbers)):
        raise ValueError(
            f"`{name}` must be one finite number, or one for each of the {channels} channels. "
            f"Received: {name}={values!r}"
        )
    return tuple(np.broadcast_to(numbers, channels).tolist())
