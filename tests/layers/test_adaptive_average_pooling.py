import math

import keras
import numpy as np
import pytest
from registered_name import has_registered_name

from letkd_keras.layers import AdaptiveAveragePooling, adaptive_average_pool


def _by_loops(x, grid):
    """PyTorch's definition, window by window."""
    pooled = np.empty((len(x), *grid, x.shape[-1]))
    for i in range(grid[0]):
        for j in range(grid[1]):
            rows, columns = (
                slice(math.floor(k * size / n), math.ceil((k + 1) * size / n))
                for k, size, n in ((i, x.shape[1], grid[0]), (j, x.shape[2], grid[1]))
            )
            pooled[:, i, j] = x[:, rows, columns].mean((1, 2))
    return pooled


def _features(height, width):
    return np.random.default_rng(0).standard_normal((2, height, width, 3)).astype("float32")


CASES = [((7, 7), (4, 4)), ((8, 6), (4, 2)), ((9, 5), (2, 3)), ((4, 7), (4, 5)), ((4, 4), (7, 3))]


@pytest.mark.parametrize(("size", "grid"), CASES)
def test_windows_are_those_of_pytorch(size, grid):
    x = _features(*size)
    expected = _by_loops(x, grid)
    np.testing.assert_allclose(adaptive_average_pool(x, grid), expected, rtol=1e-5, atol=1e-6)


def test_seven_columns_to_four_by_hand():
    x = np.arange(7.0, dtype="float32").reshape(1, 1, 7, 1)
    pooled = adaptive_average_pool(x, (1, 4))
    np.testing.assert_allclose(np.ravel(pooled), [0.5, 2.0, 4.0, 5.5])


def test_the_same_grid_changes_nothing():
    x = keras.ops.convert_to_tensor(_features(4, 5))
    assert adaptive_average_pool(x, (4, 5)) is x


def test_distributions_stay_distributions():
    p = keras.ops.softmax(_features(7, 7))
    np.testing.assert_allclose(keras.ops.sum(adaptive_average_pool(p, (4, 4)), -1), 1, rtol=1e-5)


def test_the_size_may_be_open():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, AdaptiveAveragePooling((4, 3))(inputs))
    assert model.output_shape == (None, 4, 3, 3)
    for size in ((7, 7), (8, 6), (4, 3)):
        x = _features(*size)
        pooled = model.predict(x, verbose=0)
        np.testing.assert_allclose(pooled, _by_loops(x, (4, 3)), rtol=1e-5, atol=1e-6)


def test_channels_first():
    x = _features(7, 5)
    layer = AdaptiveAveragePooling((4, 3), data_format="channels_first")
    first = np.moveaxis(x, 3, 1)
    assert layer.compute_output_shape(first.shape) == (2, 3, 4, 3)
    np.testing.assert_allclose(
        np.moveaxis(np.array(layer(first)), 1, 3), _by_loops(x, (4, 3)), rtol=1e-5, atol=1e-6
    )


def test_half_precision_is_kept():
    x = keras.ops.cast(_features(7, 7), "float16")
    pooled = adaptive_average_pool(x, (4, 4))
    assert keras.backend.standardize_dtype(pooled.dtype) == "float16"
    np.testing.assert_allclose(pooled, _by_loops(_features(7, 7), (4, 4)), atol=2e-3)


def test_round_trip():
    layer = AdaptiveAveragePooling((4, 3), name="pool")
    copy = AdaptiveAveragePooling.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert has_registered_name(layer)


@pytest.mark.parametrize("grid", [(0, 4), (4, 2.5)])
def test_grids_are_checked(grid):
    with pytest.raises(ValueError, match="`grid` must be an integer of at least 1"):
        AdaptiveAveragePooling(grid)
    with pytest.raises(ValueError, match=r"`grid` must be \(height, width\). Received: grid=4"):
        AdaptiveAveragePooling(4)
