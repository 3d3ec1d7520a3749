import pytest

from letkd_keras.data_format import data_format_or_default, spatial_shape


def test_data_formats():
    assert data_format_or_default(None) == "channels_last"
    assert data_format_or_default("channels_first") == "channels_first"
    with pytest.raises(ValueError, match=r"`data_format` must be .*'NHWC'"):
        data_format_or_default("NHWC")


def test_the_grid_of_a_shape():
    assert spatial_shape((None, 8, 6, 3)) == (8, 6)
