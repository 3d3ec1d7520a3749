import keras
import numpy as np
from keras import ops

from letkd_keras.data_format import (
    data_format_or_default,
    from_channels_last,
    to_channels_last,
)
from letkd_keras.ranges import positive_integer


def adaptive_average_pool(features, grid):
    """Average a feature map over windows that cover it, to a grid of any size.

    Row i of h averages the rows from floor(i * H / h) to ceil((i + 1) * H / h), and the columns
    likewise, as in PyTorch's `AdaptiveAvgPool2d`. Where the grid divides that of the map, this is
    average pooling without overlap. Where the grid is finer than the map, locations repeat.

    Unlike `keras.ops.adaptive_average_pool`, the height and width of the map may be open.

    Args:
        features: Feature map [B, H, W, C].
        grid: `(height, width)` of the result.

    Returns:
        [B, height, width, C], of the dtype of `features`.
    """
    height, width = grid
    sizes = ops.shape(features)[1:3]
    if all(isinstance(size, int) for size in sizes):
        if tuple(sizes) == (height, width):
            return features
        if sizes[0] % height == 0 and sizes[1] % width == 0:
            window = sizes[0] // height, sizes[1] // width
            return ops.average_pool(features, window, strides=window, data_format="channels_last")
    # The means of the rows, then those of the columns.
    pooled = ops.einsum("hH,bHWc->bhWc", _window_means(sizes[0], height), features)
    pooled = ops.einsum("wW,bhWc->bhwc", _window_means(sizes[1], width), pooled)
    return ops.cast(pooled, features.dtype)


def _window_means(size, windows):
    """Matrix [windows, size] whose rows average the positions of each window."""
    numbers = np if isinstance(size, int) else ops
    index, position = numbers.arange(windows)[:, None], numbers.arange(size)[None, :]
    start, end = (index * size) // windows, ((index + 1) * size + windows - 1) // windows
    inside = numbers.logical_and(position >= start, position < end)
    inside = inside.astype("float32") if numbers is np else ops.cast(inside, "float32")
    return inside / numbers.sum(inside, axis=1, keepdims=True)


@keras.saving.register_keras_serializable("letkd_keras")
class AdaptiveAveragePooling(keras.layers.Layer):
    """Average pooling of a feature map to a grid of any size (`adaptive_average_pool`).

    Args:
        grid: `(height, width)` of the output.
        data_format: `"channels_last"`, `"channels_first"` or `None` for the Keras setting.
        **kwargs: Keras' layer arguments.

    Call arguments:
        inputs: Features [B, H, W, C] (or [B, C, H, W]). H and W may be open.

    Returns:
        Features [B, height, width, C] (or [B, C, height, width]).

    Raises:
        ValueError: If the grid is not two integers of at least 1.
    """

    def __init__(self, grid, data_format=None, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(grid, tuple | list) or len(grid) != 2:
            raise ValueError(f"`grid` must be (height, width). Received: grid={grid!r}")
        self.grid = tuple(positive_integer.check(size, "grid") for size in grid)
        self.data_format = data_format_or_default(data_format)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def call(self, inputs):
        features = to_channels_last(inputs, self.data_format)
        pooled = adaptive_average_pool(features, self.grid)
        return from_channels_last(pooled, self.data_format)

    def compute_output_shape(self, input_shape):
        if self.data_format == "channels_last":
            return (input_shape[0], *self.grid, input_shape[3])
        return (*input_shape[:2], *self.grid)

    def get_config(self):
        return {**super().get_config(), "grid": self.grid, "data_format": self.data_format}
