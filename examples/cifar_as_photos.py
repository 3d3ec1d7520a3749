"""Write some images of CIFAR-100 as trees of JPEG files, to try the folder recipe on.

python examples/cifar_as_photos.py photos

CIFAR-100 is read with tensorflow-datasets, from the folder TFDS_DATA_DIR or its default folder, or
downloaded. Images of 32 x 32 pixels are enlarged to 96 x 96.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from letkd_keras.data import load_cifar

CLASSES = ("bicycle", "castle", "orange", "sunflower", "wardrobe")
# Images of each class. Those of the last three are different images of the training set.
TEST, TRAIN, UNLABELLED, TEACHER = 100, 20, 140, 340
SIZE = 96


def write(folder):
    """Write FOLDER with `train` and `val`, FOLDER_unlabelled, and FOLDER_teacher for a teacher.

    FOLDER_unlabelled has images in no order of classes; the others have a folder for each class.
    """
    data = load_cifar("cifar100")
    rng = np.random.default_rng(0)
    unlabelled = []
    for name in CLASSES:
        label = data.class_names.index(name)
        rows = rng.permutation(np.flatnonzero(data.y_train == label))
        train, further, teacher = np.split(
            rows[: TRAIN + UNLABELLED + TEACHER], np.cumsum([TRAIN, UNLABELLED])
        )
        test = np.flatnonzero(data.y_test == label)[:TEST]
        _save(data.x_train[train], Path(folder, "train", name))
        _save(data.x_test[test], Path(folder, "val", name))
        _save(data.x_train[teacher], Path(f"{folder}_teacher", name))
        unlabelled.append(further)
    rows = rng.permutation(np.concatenate(unlabelled))
    _save(data.x_train[rows], Path(f"{folder}_unlabelled"))


def _save(images, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        enlarged = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        enlarged.save(folder / f"{number:03d}.jpg", quality=95)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    write(sys.argv[1])
