"""Small trees of made-up images, a colour a class."""

import numpy as np
from PIL import Image

COLOURS = {"ant": (250, 10, 10), "bee": (10, 250, 10), "cat": (10, 10, 250)}


def picture(colour, size=(12, 10), seed=0):
    """A noisy image of nearly one colour."""
    noise = np.random.default_rng(seed).integers(-5, 6, (size[1], size[0], 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype("uint8"))


def write_tree(folder, images=5, suffix=".png", colours=None, size=(12, 10)):
    """`folder/CLASS/N.png` for each class; returns the folder."""
    for label, (name, colour) in enumerate((colours or COLOURS).items()):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            image = picture(colour, size, seed=1000 * label + number)
            image.save(folder / name / f"{number}{suffix}")
    return folder
