import socket
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from letkd_keras.data.image_data import ImageData
from letkd_keras.data.npz_file import load_npz

# name: (mean, std) of the training pixels, as the published recipes have them.
_STATISTICS = {
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def load_cifar(name="cifar100", data_dir=None):
    """CIFAR-100 or CIFAR-10 through tensorflow-datasets or of a `.npz` file, whole, in memory.

    Args:
        name: `"cifar100"` or `"cifar10"`.
        data_dir: Folder of tensorflow-datasets that holds, or will hold, the prepared data set;
            `None` for its default. Or the file that `python -m letkd_keras.data` wrote, or the
            folder with it under the name of the data set, which needs no TensorFlow.

    Returns:
        An `ImageData`.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If the data set is neither there nor to be downloaded.
    """
    if name not in _STATISTICS:
        raise ValueError(f"`name` must be one of {', '.join(_STATISTICS)}. Received: name={name!r}")
    file = Path(data_dir or "")
    if file.suffix == ".npz" or (file / f"{name}.npz").is_file():
        return load_npz(file if file.suffix else file / f"{name}.npz", name)
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{name} is read through tensorflow-datasets: pip install 'letkd-keras[datasets]', "
            f"or write {name}.npz where that is installed (python -m letkd_keras.data) and name "
            "it as `data_dir`."
        ) from error

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            _check_network(urlsplit(builder.info.homepage).hostname)
            builder.download_and_prepare()
    except Exception as error:  # tfds raises whatever its download met
        where = Path(data_dir or "~/tensorflow_datasets").expanduser()
        raise FileNotFoundError(
            f"{name} is not prepared in `data_dir` {str(where)!r} and could not be downloaded "
            f"({type(error).__name__}). Give the folder that holds {name}/<version>, or run where "
            f"there is a network."
        ) from error
    train, test = (
        tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, shuffle_files=False))
        for split in ("train", "test")
    )
    mean, std = _STATISTICS[name]
    return ImageData(
        name=name,
        x_train=np.ascontiguousarray(train["image"]),
        y_train=train["label"].astype("int64"),
        x_test=np.ascontiguousarray(test["image"]),
        y_test=test["label"].astype("int64"),
        mean=mean,
        std=std,
        class_names=tuple(builder.info.features["label"].names),
        split=f"as prepared in the tfds folder, {len(train['label'])} training and "
        f"{len(test['label'])} test images",
    )


def _check_network(host):
    """Without a network tfds tries for minutes before it says so."""
    socket.create_connection((host, 443), timeout=20).close()
