"""Tokens of a transformer as a feature map."""

import keras
from keras import ops

from letkd_keras.data_format import data_format_or_default, from_channels_last
from letkd_keras.ranges import non_negative_integer, positive_integer


@keras.saving.register_keras_serializable("letkd_keras")
class TokensToGrid(keras.layers.Layer):
    """Arranges the tokens of a transformer as a feature map.

    The first `extra_tokens` tokens are no patches of the image (class token, distillation token,
    registers) and are left out. The others are the patches row by row.

    Args:
        grid: `(height, width)` in patches.
        extra_tokens: Number of leading tokens that are no patches.
        data_format: Data format of the output: `"channels_last"`, `"channels_first"` or `None` for
            the Keras setting.
        **kwargs: Keras' layer arguments.

    Call arguments:
        inputs: Tokens [B, extra_tokens + height * width, C].

    Returns:
        Feature map [B, height, width, C] (or [B, C, height, width]).

    Raises:
        ValueError: If an argument is out of its range, or the number of tokens is another.
    """

    def __init__(self, grid, extra_tokens=0, data_format=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(grid, tuple | list) or len(grid) != 2:
            raise ValueError(f"`grid` must be (height, width). Received: grid={grid!r}")
        self.grid = tuple(positive_integer.check(size, "grid") for size in grid)
        self.extra_tokens = non_negative_integer.check(extra_tokens, "extra_tokens")
        self.data_format = data_format_or_default(data_format)

    def build(self, input_shape):
        height, width = self.grid
        if len(input_shape) != 3 or input_shape[1] != self.extra_tokens + height * width:
            raise ValueError(
                f"Tokens must be of shape [B, {self.extra_tokens} + {height} * {width}, C]. "
                f"Received: shape {tuple(input_shape)}"
            )
        self.built = True

    def call(self, inputs):
        patches = inputs[:, self.extra_tokens :]
        maps = ops.reshape(patches, (-1, *self.grid, inputs.shape[-1]))
        return from_channels_last(maps, self.data_format)

    def compute_output_shape(self, input_shape):
        batch, _, channels = input_shape
        if self.data_format == "channels_last":
            return (batch, *self.grid, channels)
        return (batch, channels, *self.grid)

    def get_config(self):
        return {
            **super().get_config(),
            "grid": self.grid,
            "extra_tokens": self.extra_tokens,
            "data_format": self.data_format,
        }
