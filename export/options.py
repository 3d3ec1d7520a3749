from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ExportOptions:
    """What some formats want to know besides the student.

    Attributes:
        calibration: Images [N, H, W, C], normalised, from the training data: int8 takes its ranges
            from them; quantisation-aware training, pruning and clustering train on them.
        integer_io: Whether int8 takes and gives int8 (scale and zero point are in the file) rather
            than float32.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1]. With both, a SavedModel has
            the endpoint `classify` too: uint8 images to probabilities.
        class_names: Name of each class, for `classify` and the card.
        channels_first: Whether ONNX takes images as [N, C, H, W].
        opset: Version of the ONNX operators, 13 to 18. From 18 on the converter leaves more
            transpositions around averages.
        epochs: Passes of quantisation-aware training, pruning or clustering over `calibration`;
            `None`: 10 of pruning, which has most to mend, 3 of the others.
        learning_rate: Rate of their optimizer, Adam; `None`: 1e-3 for pruning, 1e-4 for the others.
        sparsity: Share of each kernel that pruning sets to zero.
        clusters: Values that clustering leaves in each kernel.
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
        """Refuse options that do not fit each other or the student.

        Raises:
            ValueError: If so.
        """
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
        if self.opset not in range(13, 19):
            raise ValueError(f"`opset` must be between 13 and 18. Received: opset={self.opset}")
        if not 0 < self.sparsity < 1:
            raise ValueError(
                f"`sparsity` must be between 0 and 1. Received: sparsity={self.sparsity}"
            )
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(
                f"`learning_rate` must be more than 0. Received: learning_rate={self.learning_rate}"
            )
        for name, least in (("epochs", 1), ("clusters", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be at least {least}. Received: {name}={value}")

    def check_calibration(self):
        """Refuse to go on to int8 without calibration images.

        Raises:
            ValueError: If there are none.
        """
        if self.calibration is None or not len(self.calibration):
            raise ValueError(
                "`calibration` must be given for this format: some hundred training images, "
                "normalised as the network takes them. Received: calibration=None"
            )

    def normalise(self, pixels):
        """Images as the network takes them, from pixels in 0 to 255 (NumPy or TensorFlow)."""
        # (x / 255 - mean) / std as one multiplication and one addition, as in training.
        scale = np.asarray(1 / (255 * np.asarray(self.std)), "float32")
        shift = np.asarray(-np.asarray(self.mean) / np.asarray(self.std), "float32")
        return pixels * scale + shift
