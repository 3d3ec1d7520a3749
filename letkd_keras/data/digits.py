import numpy as np

from letkd_keras import ranges
from letkd_keras.data.image_data import ImageData


def load_digits(image_size=32, test_fraction=1 / 3, seed=0):
    """Handwritten digits that scikit-learn contains: real images without a download.

    The 1,797 images of 8x8 pixels (UCI optical digits) are enlarged to `image_size` by bicubic
    interpolation and repeated over three channels.

    Args:
        image_size: Height and width, from 8 to 4096.
        test_fraction: Share of the images of each class that are test images, in (0, 1). Each class
            must have an image in either part.
        seed: Seed of the split, 0 or more.

    Returns:
        An `ImageData` of ten classes.

    Raises:
        ValueError: If an argument is out of range.
    """
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    ranges.image_size.check(image_size, "image_size")
    ranges.positive_fraction.check(test_fraction, "test_fraction")
    ranges.seed.check(seed, "seed")
    bunch = load()
    # The interpolation is linear in the pixels: a matrix for rows and columns is faster than `zoom`
    # of every image.
    enlarge = zoom(np.eye(8), (image_size / 8, 1), order=3, mode="nearest", grid_mode=True)
    images = enlarge @ (bunch.images / 16.0) @ enlarge.T
    # The first rounding removes the noise of float64, which would decide how 127.5 is rounded.
    images = np.round(255 * np.clip(images, 0, 1).round(9)).astype("uint8")
    images = np.repeat(images[..., None], 3, axis=-1)
    try:
        x_train, x_test, y_train, y_test = train_test_split(
            images,
            bunch.target.astype("int64"),
            test_size=test_fraction,
            stratify=bunch.target,
            random_state=seed,
        )
    except ValueError as error:  # scikit-learn names an argument of its own
        raise ValueError(
            "`test_fraction` must give training and test images of each class. "
            f"Received: test_fraction={test_fraction} of {len(images)} images"
        ) from error
    pixels = x_train / 255.0
    return ImageData(
        name="digits",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        mean=tuple(pixels.mean((0, 1, 2)).tolist()),
        std=tuple(pixels.std((0, 1, 2)).tolist()),
        class_names=tuple(str(name) for name in bunch.target_names),
        split=f"stratified, {len(x_train)} training and {len(x_test)} test images, seed {seed}",
    )
