import tracemalloc

import numpy as np

from letkd_keras.data.normalization import pixel_statistics


def test_pixel_statistics_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype="uint8")
    mean, std = pixel_statistics(images, block_pixels=7 * 16)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)))
    assert pixel_statistics(np.full((2, 4, 4, 1), 7, "uint8"))[1] == (1 / 255,)


def test_pixel_statistics_do_not_depend_on_the_blocks_and_need_little_memory():
    images = np.random.default_rng(0).integers(0, 256, (1024, 96, 96, 3), dtype="uint8")
    tracemalloc.start()
    measured = pixel_statistics(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20 < 8 * images[..., 0].size  # that of all images at once, as int64
    for block_pixels in (1, 96 * 96 * 7, images.size):
        assert pixel_statistics(images, block_pixels) == measured
