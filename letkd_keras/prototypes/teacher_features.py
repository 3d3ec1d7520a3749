import keras
import numpy as np

from letkd_keras.functional.graph import find_layer, flatten, output_of
from letkd_keras.prototypes.inference import BatchInference


class TeacherFeatures:
    """A frozen teacher, looked at through its taps.

    One functional model runs from the teacher's input to all its taps, pools them where the
    student's grid is smaller (method, "heterogeneous pairs") and is called in inference mode, on
    all replicas of a `tf.distribute` strategy that is running.

    Args:
        teacher: A functional `keras.Model` from images to logits [B, classes].
        taps: Names of the layers whose outputs are wanted.
        pool: Window and stride of the average pooling, one for all taps or one for each; 1 leaves
            the grid as it is, 2 halves it.

    Attributes:
        num_classes: Number of classes, from the teacher's output.
        pools: Window of each tap.
        grids: `(height, width)` of each tap after pooling.
        channels: Number of channels of each tap.

    Raises:
        ValueError: If the teacher is no functional model with one output [B, classes], has no such
            layer, or a tap is no feature map of known size.
    """

    def __init__(self, teacher, taps, pool=1):
        _check_output(teacher)
        self.teacher = teacher
        self.taps = tuple(taps)
        self.pools = _check_pools(pool, len(self.taps))
        self.num_classes = int(teacher.output.shape[-1])
        flat = flatten(teacher)
        outputs = [output_of(flat, find_layer(flat, tap)) for tap in self.taps]
        outputs = [_channels_last(output) for output in outputs]
        for i, (tap, window) in enumerate(zip(self.taps, self.pools, strict=True)):
            _check_feature_map(tap, outputs[i], window)
            if window > 1:
                pooling = keras.layers.AveragePooling2D(window, data_format="channels_last")
                outputs[i] = pooling(outputs[i])
        self.grids = tuple(tuple(output.shape[1:3]) for output in outputs)
        self.channels = tuple(int(output.shape[-1]) for output in outputs)
        self.model = keras.Model(flat.inputs, outputs)
        self._infer = BatchInference(self.model, teacher)

    def last_tap(self):
        """The last tap by itself, as `TeacherFeatures` that run the teacher no further."""
        return TeacherFeatures(self.teacher, self.taps[-1:], self.pools[-1:])

    def locations(self, tap):
        """Number of locations of tap number `tap`."""
        height, width = self.grids[tap]
        return height * width

    def __call__(self, images):
        """Feature vectors of a batch.

        Args:
            images: Batch of images, as the teacher takes them.

        Returns:
            A list with, for each tap, float32 [B * height * width, C], image by image.
        """
        return [
            np.asarray(feature, dtype="float32").reshape(-1, channels)
            for feature, channels in zip(self._infer(images), self.channels, strict=True)
        ]


def _check_pools(pool, taps):
    pools = (pool,) * taps if isinstance(pool, int) else tuple(pool)
    if len(pools) != taps or not all(isinstance(p, int) and p >= 1 for p in pools):
        raise ValueError(
            f"`pool` must be an integer of at least 1, or {taps} of them, one for each tap. "
            f"Received: pool={pool}"
        )
    return pools


def _check_output(teacher):
    try:
        shape = teacher.output.shape
    except AttributeError:
        shape = None  # a subclassed model has no output, a model of several has a list
    if shape is None or len(shape) != 2 or shape[-1] is None:
        raise ValueError(
            "`teacher` must be a functional keras.Model with one output of logits [B, classes]. "
            f"Received: teacher={teacher!r} with output shape "
            f"{getattr(teacher, 'output_shape', None)}"
        )


def _check_feature_map(tap, output, pool):
    shape = output.shape
    if len(shape) != 4 or None in shape[1:] or any(size % pool for size in shape[1:3]):
        raise ValueError(
            "A tap must be a feature map [B, height, width, channels] of known size, which "
            f"pool={pool} divides. Received: tap={tap!r} of shape {tuple(shape)}"
        )


def _channels_last(output):
    if keras.config.image_data_format() == "channels_first" and len(output.shape) == 4:
        return keras.layers.Permute((2, 3, 1))(output)
    return output
