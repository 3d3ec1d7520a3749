import pytest

from letkd_keras.prototypes.passes import sample_size


@pytest.mark.parametrize(
    ("channels", "points"),
    # Bytes of a vector: 4 for each channel and 20 beside.
    [(64, 256 * 4096), (32, 2**28 // 148), (512, 256 * 4096), (2048, 256 * 4096)],
)
def test_a_sample_has_256_points_for_each_center_unless_memory_says_otherwise(channels, points):
    assert sample_size(None, channels, 4096) == points
    assert sample_size(2**28, channels, 4096) == 2**28 // (4 * channels + 20)
    assert sample_size(2**40, channels, 4096) == 2**40 // (4 * channels + 20)
    assert sample_size(1, channels, 4096) == 1
