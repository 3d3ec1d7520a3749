import os
from pathlib import Path

from letkd_keras import ranges
from letkd_keras.data.class_folders import (
    OF_TENSORFLOW,
    check_same_classes,
    check_utf8,
    find_images,
    split_folders,
    warn_of_class_names,
    warn_of_other_folders,
)
from letkd_keras.data.image_sources import FileSource
from letkd_keras.data.normalization import PIXELS
from letkd_keras.data.streamed_images import StreamedImages
from letkd_keras.data.tfds import streamed

# Mean and standard deviation of the training pixels, as in torchvision's recipes.
_MEAN, _STD = PIXELS["imagenet"]
# Its name in tensorflow-datasets.
_TFDS = "imagenet2012"


def load_imagenet(data_dir=None, image_size=224):
    """ImageNet, or any tree of the same form, read from disk image by image.

    Args:
        data_dir: A folder with `train` and `val` (or `valid`, `validation`, `test`) that have a
            folder for each class, as torchvision's `ImageFolder` takes it; or the folder of
            tensorflow-datasets that holds the prepared `imagenet2012`; `None` for the default
            folder of tensorflow-datasets.
        image_size: Height and width of the crops.

    Returns:
        `StreamedImages`; its test images are the validation images.

    Raises:
        FileNotFoundError: If the folder holds neither.
        ImportError: If tensorflow-datasets is needed and not installed.
        ValueError: If the size is out of range, a class has no images, or training and validation
            classes differ.
    """
    ranges.image_size.check(image_size, "image_size")
    folders = split_folders(data_dir) if data_dir else {}
    if "test" in folders:
        # ImageNet's own test images have no labels.
        warn_of_other_folders(data_dir, folders)
        test_folder = folders.get("validation", folders["test"])
        name = Path(data_dir).resolve().name
        check_utf8(name, "`data_dir`")
        return _of_folders(folders["train"], test_folder, name, image_size)
    return streamed(_prepared(data_dir), _TFDS, "validation", image_size)


def _of_folders(train_folder, test_folder, name, image_size):
    train, test = (find_images(folder, OF_TENSORFLOW) for folder in (train_folder, test_folder))
    check_same_classes(train, test)
    warn_of_class_names(train_folder, train.class_names)
    return StreamedImages(
        name=name,
        train=FileSource(train),
        test=FileSource(test),
        image_size=image_size,
        mean=_MEAN,
        std=_STD,
        class_names=train.class_names,
        split=f"as in the folders {train_folder.name} and {test_folder.name}",
    )


def _prepared(data_dir):
    """The `tfds` builder of ImageNet, which was prepared before."""
    # The default is that of tensorflow-datasets, which may not be installed.
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    folder = Path(data_dir or default).expanduser()
    versions = sorted((folder / _TFDS).glob("*/dataset_info.json"))
    if not versions:
        raise FileNotFoundError(
            f"`data_dir` must have train/ and val/ with a folder for each class, or {_TFDS} as "
            f"prepared by tensorflow-datasets. Received: {str(folder)!r}"
        )
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{_TFDS} is read with tensorflow-datasets: pip install 'letkd-keras[datasets]'"
        ) from error
    return tfds.builder_from_directory(versions[-1].parent)
