import keras
import numpy as np
import pytest
from registered_name import has_registered_name

from letkd_keras.layers import ChannelShuffle, ChannelSplit


def _x():
    return np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype("float32")


@pytest.mark.parametrize(
    ("groups", "order"),
    [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 3, 1, 4, 2, 5]), (3, [0, 2, 4, 1, 3, 5])],
)
def test_channels_are_read_across_the_groups(groups, order):
    np.testing.assert_array_equal(ChannelShuffle(groups)(_x()), _x()[..., order])
    first = ChannelShuffle(groups, data_format="channels_first")(_x().transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(first, _x()[..., order].transpose(0, 3, 1, 2))


def test_the_halves_of_the_channels():
    first, second = ChannelSplit()(_x())
    np.testing.assert_array_equal(first, _x()[..., :3])
    np.testing.assert_array_equal(second, _x()[..., 3:])
    first, second = ChannelSplit(data_format="channels_first")(_x().transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(second, _x()[..., 3:].transpose(0, 3, 1, 2))


def test_symbolic_shapes_and_config_round_trip():
    inputs = keras.Input((None, None, 6))
    assert ChannelShuffle(3)(inputs).shape == (None, None, None, 6)
    assert [half.shape for half in ChannelSplit()(inputs)] == [(None, None, None, 3)] * 2
    layer = ChannelShuffle(3, data_format="channels_first", name="shuffle")
    again = ChannelShuffle.from_config(layer.get_config())
    assert (again.groups, again.data_format, again.name) == (3, "channels_first", "shuffle")
    assert has_registered_name(again) and has_registered_name(ChannelSplit())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`groups` must be an integer of at least 1"):
        ChannelShuffle(0)
    with pytest.raises(ValueError, match="`groups` must divide"):
        ChannelShuffle(4)(_x())
    with pytest.raises(ValueError, match=r"`groups` must divide.*None\)"):
        ChannelShuffle(2)(keras.Input((4, 4, None)))
    with pytest.raises(ValueError, match="`data_format` must be"):
        ChannelSplit(data_format="NHWC")
    for channels in (5, None):
        with pytest.raises(ValueError, match=rf"an even number of channels.*{channels}\)"):
            ChannelSplit()(keras.Input((4, 4, channels)))
