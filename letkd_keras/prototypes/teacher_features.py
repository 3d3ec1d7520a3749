import difflib

import keras
import numpy as np


class TeacherFeatures:
    """A frozen teacher, looked at through its taps.

    One functional model runs from the teacher's input to all its taps, pools them where the
    student's grid is smaller (method, "heterogeneous pairs") and is called in inference mode.

    Args:
        teacher: A functional `keras.Model` from images to logits [B, classes].
        taps: Names of the layers whose outputs are wanted.
        pool: 1, or 2 for average pooling 2x2 with stride 2.

    Attributes:
        num_classes: Number of classes, from the teacher's output.
        grids: `(height, width)` of each tap after pooling.
        channels: Number of channels of each tap.

    Raises:
        ValueError: If the teacher is no functional model with one output [B, classes], has no such
            layer, or a tap is no feature map of known size.
    """

    def __init__(self, teacher, taps, pool=1):
        if pool not in (1, 2):
            raise ValueError(f"`pool` must be 1 or 2. Received: pool={pool}")
        _check_output(teacher)
        self.teacher = teacher
        self.taps = tuple(taps)
        self.num_classes = int(teacher.output.shape[-1])
        outputs = [_channels_last(tap_output(teacher, tap)) for tap in self.taps]
        for tap, output in zip(self.taps, outputs, strict=True):
            _check_feature_map(tap, output, pool)
        if pool > 1:
            pooling = keras.layers.AveragePooling2D(pool, data_format="channels_last")
            outputs = [pooling(output) for output in outputs]
        self.grids = tuple(tuple(output.shape[1:3]) for output in outputs)
        self.channels = tuple(int(output.shape[-1]) for output in outputs)
        self.model = keras.Model(teacher.inputs, outputs)

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
        features = self.model.predict_on_batch(images)
        if len(self.taps) == 1 and not isinstance(features, list):
            features = [features]
        return [
            np.asarray(feature, dtype="float32").reshape(-1, channels)
            for feature, channels in zip(features, self.channels, strict=True)
        ]


def tap_output(model, tap):
    """Symbolic output of the layer named `tap`.

    Raises:
        ValueError: If there is no such layer; names like it are listed.
    """
    names = [layer.name for layer in model.layers]
    if tap not in names:
        close = difflib.get_close_matches(str(tap), names, n=5) or names[-5:]
        raise ValueError(
            f"A tap must be the name of a layer of the teacher {model.name!r}, such as "
            f"{', '.join(map(repr, close))}. Received: tap={tap!r}"
        )
    return model.get_layer(tap).output


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
    if len(shape) != 4 or None in shape[1:] or min(shape[1:3]) < pool:
        raise ValueError(
            "A tap must be a feature map [B, height, width, channels] of known size, at least "
            f"{pool} x {pool}. Received: tap={tap!r} of shape {tuple(shape)}"
        )


def _channels_last(output):
    if keras.config.image_data_format() == "channels_first" and len(output.shape) == 4:
        return keras.layers.Permute((2, 3, 1))(output)
    return output
