import numpy as np
import pytest
import sklearn.datasets
from scipy.ndimage import zoom

from letkd_keras.data import load_digits


def test_the_digits_are_a_fixed_split_of_all_images():
    data, again = load_digits(), load_digits()
    np.testing.assert_array_equal(data.x_train, again.x_train)
    np.testing.assert_array_equal(data.y_test, again.y_test)
    assert data.x_train.shape == (1198, 32, 32, 3)
    assert data.x_test.shape == (599, 32, 32, 3)
    assert data.x_train.dtype == np.uint8
    assert (data.num_classes, data.image_shape) == (10, (32, 32, 3))
    shares = np.bincount(data.y_train) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    np.testing.assert_allclose(shares, 2 / 3, atol=0.01)
    assert not {x.tobytes() for x in data.x_train} & {x.tobytes() for x in data.x_test}
    assert not np.array_equal(data.y_train, load_digits(seed=1).y_train)
    pixels = data.x_train / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)))
    for size in (7, 8.5):
        with pytest.raises(ValueError, match=rf"`image_size` must be an int.* image_size={size}"):
            load_digits(image_size=size)
    with pytest.raises(ValueError, match=r"`test_fraction` must be .* less than 1.*n=2\.0"):
        load_digits(test_fraction=2.0)
    with pytest.raises(ValueError, match=r"`test_fraction` must .*=0\.001 of 1797 images$"):
        load_digits(8, test_fraction=0.001)
    with pytest.raises(ValueError, match=r"`seed` must be .* seed=-1$"):
        load_digits(seed=-1)


@pytest.mark.parametrize("size", [8, 13, 24, 32])
def test_every_image_is_enlarged_by_cubic_interpolation(size):
    data = load_digits(size)
    found = {image[..., 0].tobytes() for image in (*data.x_train, *data.x_test)}
    for image in sklearn.datasets.load_digits().images[:50]:
        enlarged = zoom(image / 16, size / 8, order=3, mode="nearest", grid_mode=True)
        assert np.round(255 * np.clip(enlarged, 0, 1).round(9)).astype("uint8").tobytes() in found
