from dataclasses import dataclass

import numpy as np

from letkd_keras import command_line
from letkd_keras.data.normalization import scale_and_shift

# Range of each number, here and on the command line.
RANGES = {
    "opset": command_line.Integer(13, 18),
    "epochs": command_line.positive_integer,
    "learning_rate": command_line.positive_number,
    "sparsity": command_line.fraction,
    "clusters": command_line.Integer(2),
}


@dataclass(frozen=True)
class ExportOptions:
    """What some formats need besides the student.

    Attributes:
        calibration: Training images [N, H, W, C], normalized. `tflite-int8` measures the ranges of
            activations on them; `tflite-qat`, `tflite-pruned` and `tflite-clustered` train on them.
        integer_io: Whether `tflite-int8` has int8 inputs and outputs (scale and zero point are in
            the file) instead of float32.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1]. With both, a SavedModel also
            has the endpoint `classify`, from uint8 images to probabilities.
        class_names: Name of each class, for `classify` and the card.
        channels_first: Whether ONNX takes images [N, C, H, W].
        opset: Version of the ONNX operators, 13 to 18. From 18 on the converter leaves more
            transpositions around averages.
        epochs: Passes over `calibration` of the formats that train; `None`: 10 for
            `tflite-pruned`, 3 for the others.
        learning_rate: Learning rate of their optimizer, Adam; `None`: 1e-3 for `tflite-pruned`,
            1e-4 for the others.
        sparsity: Share of each kernel that `tflite-pruned` sets to zero.
        clusters: Number of different values in each kernel of `tflite-clustered`.
    """

    calibration: np.ndarray | None = None
    integer_io: bool = False
    mean: tuple | None = None
    std: tuple | None = None
    class_names: tuple | None = None
    channels_first: bool = False
    opset: int = 17
    epochs: int | None = None
    learning_rate: float | None = None
    sparsity: float = 0.5
    clusters: int = 16

    def check(self, student):
        """Refuse options that are out of range or do not fit the student.

        Raises:
            ValueError: If so.
        """
        if (self.mean is None) != (self.std is None):
            raise ValueError(
                "`mean` and `std` must be given together. "
                f"Received: mean={self.mean}, std={self.std}"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and not np.all(np.isfinite(values)):
                raise ValueError(f"`{name}` must be finite. Received: {name}={values}")
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

    def check_calibration(self):
        """Refuse a format that needs calibration images if there are none.

        Raises:
            ValueError: If so.
        """
        if self.calibration is None or not len(self.calibration):
            raise ValueError(
                "`calibration` must be given for this format: a few hundred training images, "
                "normalized as for the student. Received: calibration=None"
            )

    def normalize(self, pixels):
        """Normalize float32 pixels from 0 to 255 (NumPy or TensorFlow), as in training."""
        scale, shift = scale_and_shift(self.mean, self.std)
        return pixels * scale + shift
