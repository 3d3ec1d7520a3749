import numpy as np
import pytest
from registered_name import has_registered_name

from letkd_keras.layers import TokensToGrid


def test_tokens_go_row_by_row():
    x = np.arange(2 * 8 * 1, dtype="float32").reshape(2, 8, 1)
    maps = TokensToGrid((2, 3), 2)(x)
    np.testing.assert_array_equal(maps[1, ..., 0], [[10, 11, 12], [13, 14, 15]])
    first = TokensToGrid((2, 3), 2, data_format="channels_first")
    np.testing.assert_array_equal(first(x), np.moveaxis(np.array(maps), 3, 1))
    assert first.compute_output_shape((None, 8, 1)) == (None, 1, 2, 3)
    copy = TokensToGrid.from_config(first.get_config())
    assert copy.get_config() == first.get_config()
    assert (copy.grid, copy.extra_tokens, copy.data_format) == ((2, 3), 2, "channels_first")
    assert has_registered_name(copy)
    with pytest.raises(ValueError, match=r"shape \[B, 2 \+ 2 \* 3, C\].*\(2, 7, 1\)"):
        TokensToGrid((2, 3), 2)(x[:, :7])
    with pytest.raises(ValueError, match=r"Received: shape \(2, 8, 1, 1\)"):
        TokensToGrid((2, 3), 2)(x[..., None])
    for grid in (7, (2.5, 3), (0, 3), (1, 2, 3)):
        with pytest.raises(ValueError, match="`grid` must be"):
            TokensToGrid(grid)
    with pytest.raises(ValueError, match="`extra_tokens` must be"):
        TokensToGrid((2, 3), -1)
