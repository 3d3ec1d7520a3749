"""The loader of each kind of `DataSpec`."""

from letkd_keras.data.cifar import load_cifar
from letkd_keras.data.digits import load_digits
from letkd_keras.data.image_folder import load_image_folder
from letkd_keras.data.imagenet import load_imagenet
from letkd_keras.data.normalization import statistics_of
from letkd_keras.data.npz import load_npz
from letkd_keras.data.tfds import load_tfds
from letkd_keras.data.tiny_imagenet import load_tiny_imagenet
from letkd_keras.errors import argument_renamed

# What the loaders call the folder or file that follows the prefix of `data`.
_ARGUMENTS = {"tiny_imagenet": "data_dir", "imagenet": "data_dir", "folder": "path"}


def load(spec):
    """Read the whole data set that a `DataSpec` names, before classes and images are selected."""
    with argument_renamed(_ARGUMENTS.get(spec.kind, "data"), "data"):
        return _load(spec)


def _load(spec):
    size = {} if spec.image_size is None else {"image_size": spec.image_size}
    kind, location = spec.kind, spec.location
    if kind == "digits":
        return load_digits(spec.image_size or 32)
    if kind in ("cifar10", "cifar100"):
        return load_cifar(kind, spec.data_dir)
    if kind == "tiny_imagenet":
        return load_tiny_imagenet(location, spec.image_cache)
    if kind == "imagenet":
        return load_imagenet(location, **size)
    if kind == "tfds":
        return load_tfds(location, spec.data_dir, **size)
    if kind == "npz":
        return load_npz(location)
    # Where `pixels` names them, they need not be measured.
    mean, std = (None, None) if spec.pixels is None else statistics_of(spec.pixels, 3)
    return load_image_folder(
        location,
        spec.image_size or 64,
        seed=spec.seed,
        mean=mean,
        std=std,
        skip_corrupt=spec.skip_corrupt,
        image_cache=spec.image_cache,
        labels=spec.labels,
    )
