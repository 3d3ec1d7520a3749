import keras
import numpy as np
import pytest

from letkd_keras.distillers.feature_maps import channels_last, channels_last_shape


@pytest.mark.parametrize(
    ("data_format", "last", "order"),
    [("channels_first", (8, 6, 3), (0, 2, 3, 1)), ("channels_last", (3, 8, 6), (0, 1, 2, 3))],
)
def test_maps_of_keras_setting_have_their_channels_last(monkeypatch, data_format, last, order):
    monkeypatch.setattr(keras.config, "image_data_format", lambda: data_format)
    maps = np.arange(2 * 3 * 8 * 6, dtype="float32").reshape(2, 3, 8, 6)
    np.testing.assert_array_equal(channels_last(maps), maps.transpose(order))
    assert channels_last_shape([3, 8, 6]) == last
    # Vectors and tokens have their channels last as they are.
    np.testing.assert_array_equal(channels_last(maps[0]), maps[0])
    assert channels_last_shape([5]) == (5,)
    assert channels_last_shape([7, 5]) == (7, 5)
