"""Write scikit-learn's handwritten digits as a tree of PNG files, to try the folder recipe on.

python examples/digits_as_files.py digit_images
python -m letkd_keras.recipes.folder --data digit_images --image-size 32 --no-flip ...
"""

import sys
from pathlib import Path

from PIL import Image

from letkd_keras.data import load_digits


def write(folder):
    """`train/` and `test/` with a folder for each class, split as the digits recipe splits."""
    data = load_digits()
    splits = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
    for split, (images, labels) in splits.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = Path(folder, split, data.class_names[label], f"{number:04d}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    write(sys.argv[1])
