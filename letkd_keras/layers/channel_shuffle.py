import keras
from keras import ops

from letkd_keras.data_format import data_format_or_default
from letkd_keras.ranges import positive_integer


class _ChannelLayer(keras.layers.Layer):
    """Base of both layers: the axis of the channels."""

    def __init__(self, data_format=None, **kwargs):
        super().__init__(**kwargs)
        self.data_format = data_format_or_default(data_format)
        self.channel_axis = 3 if self.data_format == "channels_last" else 1
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format}


@keras.saving.register_keras_serializable("letkd_keras")
class ChannelShuffle(_ChannelLayer):
    """Reorders channels so that the groups of a grouped convolution exchange information.

    The channels are written into a table with `groups` rows and read column by column. With two
    groups, (a, b, c, d) becomes (a, c, b, d). (Zhang et al., "ShuffleNet", CVPR 2018.)

    Args:
        groups: Number of groups, at least 1. It must divide the number of channels.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        **kwargs: Keras' layer arguments.

    Call arguments:
        inputs: Features [B, H, W, C] or [B, C, H, W].

    Raises:
        ValueError: If `groups` is less than 1 or does not divide the number of channels.
    """

    def __init__(self, groups, data_format=None, **kwargs):
        super().__init__(data_format=data_format, **kwargs)
        self.groups = positive_integer.check(groups, "groups")

    def build(self, input_shape):
        channels = input_shape[self.channel_axis]
        if channels is None or channels % self.groups:
            raise ValueError(
                "`groups` must divide the number of channels. "
                f"Received: groups={self.groups}, input_shape={input_shape}"
            )
        self.built = True

    def call(self, inputs):
        axis = self.channel_axis
        shape = list(ops.shape(inputs))
        table = (self.groups, inputs.shape[axis] // self.groups)
        outputs = ops.reshape(inputs, (-1, *shape[1:axis], *table, *shape[axis + 1 :]))
        outputs = ops.swapaxes(outputs, axis, axis + 1)
        return ops.reshape(outputs, (-1, *shape[1:]))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "groups": self.groups}


@keras.saving.register_keras_serializable("letkd_keras")
class ChannelSplit(_ChannelLayer):
    """Splits the channels into two halves, the two branches of ShuffleNetV2.

    Args:
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        **kwargs: Keras' layer arguments.

    Call arguments:
        inputs: Features [B, H, W, C] or [B, C, H, W], C even.

    Returns:
        Two tensors of C / 2 channels.

    Raises:
        ValueError: If the number of channels is odd or unknown.
    """

    def build(self, input_shape):
        channels = input_shape[self.channel_axis]
        if channels is None or channels % 2:
            raise ValueError(
                "ChannelSplit needs an even number of channels. "
                f"Received: input_shape={input_shape}, data_format={self.data_format!r}"
            )
        self.built = True

    def call(self, inputs):
        return tuple(ops.split(inputs, 2, axis=self.channel_axis))

    def compute_output_shape(self, input_shape):
        half = list(input_shape)
        half[self.channel_axis] //= 2
        return tuple(half), tuple(half)
