"""Data sets that tensorflow-datasets has prepared."""

import contextlib
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np

from letkd_keras import ranges
from letkd_keras.data.image_data import ImageData
from letkd_keras.data.image_sources import RecordSource
from letkd_keras.data.normalization import PIXELS, pixel_statistics
from letkd_keras.data.streamed_images import StreamedImages
from letkd_keras.errors import did_you_mean, error_reason

# Larger data sets are streamed from disk.
_MEMORY = 2**31


def load_tfds(name, data_dir=None, image_size=None):
    """Any data set of tensorflow-datasets with the features `image` and `label`.

    Images that all have one size and together less than 2 GiB are read into memory, with the
    measured mean and standard deviation of their pixels. Others are streamed, with ImageNet's.

    Args:
        name: Name of the data set, such as `"cifar10"` or `"imagenet2012"`.
        data_dir: Folder of tensorflow-datasets; `None` for its default.
        image_size: Height and width of streamed images, 224 by default. For data in memory it must
            be `None`.

    Returns:
        `ImageData` or `StreamedImages`. The test images are the split `test`, or else `validation`.
        A split `test` without labels (-1), such as ImageNet's, does not count.

    Raises:
        FileNotFoundError: If the data set is not prepared and cannot be downloaded.
        ImportError: If tensorflow-datasets is not installed.
        ValueError: If the data set has other features or splits, or `image_size` does not apply or
            is out of range.
    """
    if image_size is not None:
        ranges.image_size.check(image_size, "image_size")
    builder = prepared_builder(name, data_dir)
    features, splits = builder.info.features, builder.info.splits
    if (
        features is None
        or not {"image", "label"} <= set(features)
        or not hasattr(features["label"], "names")
    ):
        raise ValueError(
            "`data` must be an image classification data set with the features image and label. "
            f"Received: data='tfds:{name}' with {', '.join(features or ['none'])}"
        )
    candidates = [split for split in ("test", "validation") if split in splits]
    if "test" in candidates and not _has_labels(builder, "test"):
        candidates.remove("test")
    test = next(iter(candidates), None)
    if "train" not in splits or test is None:
        raise ValueError(
            "`data` must have the splits train and test or validation, with labels. "
            f"Received: data='tfds:{name}' with {', '.join(splits)}"
        )
    shape = features["image"].shape
    images = splits["train"].num_examples + splits[test].num_examples
    if None in shape or images * np.prod(shape) > _MEMORY:
        return streamed(builder, name, test, image_size or 224)
    if image_size is not None:
        raise ValueError(
            f"`image_size` does not apply to images of one size. Received: "
            f"image_size={image_size} with data='tfds:{name}' of {shape[0]}x{shape[1]}"
        )
    return read_into_memory(builder, name, test=test)


def prepared_builder(name, data_dir=None):
    """The `tfds` builder of a data set, prepared.

    Raises:
        FileNotFoundError: If there is no such data set, or it is not prepared and cannot be
            downloaded.
        ImportError: If tensorflow-datasets is not installed.
        ValueError: If the name is no name of a data set, or `data_dir` is a file.
    """
    if data_dir is not None and Path(data_dir).expanduser().is_file():
        raise ValueError(f"`data_dir` must be a folder. Received: data_dir={str(data_dir)!r}")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{name} is read with tensorflow-datasets: pip install 'letkd-keras[datasets]'. Or "
            "write the data set to a file where it is installed (python -m letkd_keras.data) and "
            "give that file as `data`."
        ) from error
    try:
        base, _ = tfds.core.naming.parse_builder_name_kwargs(name)
    except ValueError as error:
        raise ValueError(
            "`data` must be tfds:NAME, with /CONFIG and :VERSION if needed. Slices of splits are "
            f"not accepted: use `train_examples` (--train-examples). Received: data='tfds:{name}'"
        ) from error
    folder = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    try:
        builder = tfds.builder(name, data_dir=None if data_dir is None else str(data_dir))
    except Exception as error:  # tfds has several for versions and configurations
        raise FileNotFoundError(
            "`data` must name a data set of tensorflow-datasets, or one that is prepared in "
            f"`data_dir` {str(folder)!r}. Received: data='tfds:{name}'"
            f"{_why_there_is_none(error, name, base.name, folder)}"
        ) from error
    try:
        if not builder.is_prepared():
            _check_network(builder.info.homepage or "")
            builder.download_and_prepare()
    except Exception as error:  # tfds raises whatever happened in its download
        raise FileNotFoundError(
            f"{name} is not prepared in `data_dir` {str(folder)!r} and could not be downloaded "
            f"({type(error).__name__}). Give the folder that holds {name}/<version>, or use a "
            "computer with network access."
        ) from error
    return builder


def _why_there_is_none(error, name, base_name, folder):
    """What the folder has instead of a data set, or why tfds knows none, as the end of an error."""
    import tensorflow_datasets as tfds

    infos = sorted((folder / base_name).rglob("dataset_info.json"))
    if infos:
        versions = ", ".join(str(info.parent.relative_to(folder)) for info in infos)
        return f". This folder has {versions}"
    if not folder.is_dir():
        return ". This folder does not exist"
    if isinstance(error, tfds.core.DatasetNotFoundError):
        return did_you_mean(name, tfds.list_builders(with_community_datasets=False))
    # What tfds writes before the reason are the arguments of its builder.
    reason = error_reason(error).rpartition('": ')[2]
    return f" ({reason.rstrip(': .')})"


def read_into_memory(builder, name, mean=None, std=None, test="test"):
    """Read a prepared data set into memory.

    Args:
        builder: `tfds` builder.
        name: Name that the data set gets.
        mean: Mean of each channel, of pixels in [0, 1]; `None` measures the training images.
        std: Standard deviation likewise.
        test: Name of the split of the test images.

    Returns:
        `ImageData`.

    Raises:
        ValueError: If a file of the data set is damaged.
    """
    import tensorflow_datasets as tfds

    with _damage_explained(builder):
        train, test = (
            tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, shuffle_files=False))
            for split in ("train", test)
        )
    x_train = np.ascontiguousarray(train["image"])
    if mean is None or std is None:
        mean, std = pixel_statistics(x_train)
    return ImageData(
        name=name,
        x_train=x_train,
        y_train=train["label"].astype("int64"),
        x_test=np.ascontiguousarray(test["image"]),
        y_test=test["label"].astype("int64"),
        mean=mean,
        std=std,
        class_names=tuple(builder.info.features["label"].names),
        split=f"as prepared by tensorflow-datasets, {len(train['label'])} training and "
        f"{len(test['label'])} test images",
    )


def streamed(builder, name, test, image_size):
    """Read a prepared data set from disk image by image, with ImageNet's mean and deviation.

    Args:
        builder: `tfds` builder.
        name: Name that the data set gets.
        test: Name of the split of the test images.
        image_size: Height and width of the crops.

    Returns:
        `StreamedImages`.

    Raises:
        ValueError: If files are missing or too small; their content is not read.
    """
    _check_sizes(builder, ("train", test))
    mean, std = PIXELS["imagenet"]
    train, test = (RecordSource.from_builder(builder, split) for split in ("train", test))
    return StreamedImages(
        name=name,
        train=train,
        test=test,
        image_size=image_size,
        mean=mean,
        std=std,
        class_names=tuple(builder.info.features["label"].names),
        split=f"as prepared by tensorflow-datasets, {len(train)} training and {len(test)} test "
        "images",
    )


def _has_labels(builder, split):
    """Whether the first images of a split have labels; the images are not decoded."""
    import tensorflow_datasets as tfds

    records = builder.as_dataset(
        split=split,
        decoders={"image": tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),
        shuffle_files=False,
    )
    with _damage_explained(builder):
        return all(record["label"] >= 0 for record in tfds.as_numpy(records.take(8)))


@contextlib.contextmanager
def _damage_explained(builder):
    """Refuse a data set of which TensorFlow cannot read the files."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise ValueError(_damage(builder, type(error).__name__)) from error


def _check_sizes(builder, splits):
    """Refuse files that are missing or too small, before they are read image by image."""
    for split in splits:
        info = builder.info.splits[split]
        found = sum(path.stat().st_size for path in map(Path, info.filepaths) if path.is_file())
        # The size that tfds states is without the few bytes that a file has for each record.
        if found < int(info.num_bytes or 0):
            raise ValueError(_damage(builder, f"{found:,} bytes of the split {split}"))


def _damage(builder, what):
    return (
        f"The data set in {builder.data_dir} is damaged ({what}): delete this folder and prepare "
        "the data set again"
    )


def _check_network(homepage):
    """Fail soon without a network; tfds would try for minutes. A proxy is left to tfds."""
    address = urlsplit(homepage)
    if address.hostname and not getproxies():
        port = 80 if address.scheme == "http" else 443
        socket.create_connection((address.hostname, port), timeout=20).close()
