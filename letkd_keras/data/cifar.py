from letkd_keras.data.tfds import prepared_builder, read_into_memory

# name: mean and standard deviation of the training pixels, as in the published recipes.
_STATISTICS = {
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}


def load_cifar(name="cifar100", data_dir=None):
    """CIFAR-100 or CIFAR-10 from tensorflow-datasets, in memory.

    Args:
        name: `"cifar100"` or `"cifar10"`.
        data_dir: Folder of tensorflow-datasets that holds the prepared data set, or into which it
            is downloaded; `None` for its default.

    Returns:
        `ImageData`.

    Raises:
        ValueError: If the name is unknown.
        FileNotFoundError: If the data set is not prepared and cannot be downloaded.
        ImportError: If tensorflow-datasets is not installed.
    """
    if name not in _STATISTICS:
        raise ValueError(f"`name` must be one of {', '.join(_STATISTICS)}. Received: name={name!r}")
    mean, std = _STATISTICS[name]
    return read_into_memory(prepared_builder(name, data_dir), name, mean, std)
