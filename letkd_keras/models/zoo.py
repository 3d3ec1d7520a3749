"""The table of networks, one row for each name.

Every network names the feature maps that distillation reads by layers that change nothing:

- `penultimate`: the last feature map before the pooling (letKD's penultimate level);
- `intermediate`: the output of the first block of the last stage (letKD's intermediate level);
- `stage1`, `stage2`, ...: the ends of the stages, the features f1, f2, ... of the methods that
  letKD is compared with, as RepDistiller defines them for CIFAR. Three in `resnet*`, `wrn*`, `snv1`
  and `snv2`; four in `resnet50`, `mnv2` and the ImageNet networks.
"""

import difflib
import pkgutil
import re
from collections.abc import Iterable

from letkd_keras.ranges import class_count

_NARROW = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)

# Name: builder, which takes num_classes, input_shape and name, and its leading arguments. Builders
# are imported when they are used, so that a command can check a name without Keras.
_CIFAR = {
    **{
        f"resnet{depth}": ("resnet:cifar_resnet", depth, _NARROW)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{f"resnet{depth}x4": ("resnet:cifar_resnet", depth, _WIDE) for depth in (8, 32)},
    # About as many multiply-adds, and as many weights, as a resnet8 with both KD layers of 1024 and
    # 160 templates (20 classes).
    "resnet8x1.2": ("resnet:cifar_resnet", 8, (19, 19, 38, 76)),
    "resnet8x1.75": ("resnet:cifar_resnet", 8, (28, 28, 56, 112)),
    "resnet50": ("resnet:cifar_resnet50",),
    **{
        f"wrn{depth}_{factor}": ("wide_resnet:wide_resnet", depth, factor)
        for depth in (16, 40)
        for factor in (1, 2)
    },
    "snv1": ("shufflenet_v1:shufflenet_v1",),
    "snv2": ("shufflenet_v2:shufflenet_v2",),
    "mnv2": ("mobilenet_v2:cifar_mobilenet_v2", 0.5),
}
_IMAGENET = {
    **{f"imagenet_resnet{depth}": ("resnet:imagenet_resnet", depth) for depth in (18, 34, 50)},
    "imagenet_mobilenet_v1": ("mobilenet_v1:imagenet_mobilenet_v1",),
    "imagenet_mobilenet_v2": ("mobilenet_v2:imagenet_mobilenet_v2",),
}
_NETWORKS = {**_CIFAR, **_IMAGENET}


# Networks that `add_network` added: name and function.
_ADDED = {}


def names():
    """Names of the networks `build` knows, in the order of the table."""
    return [*_NETWORKS, *_ADDED]


def add_network(name, builder):
    """Add a network of your own to the zoo, so that recipes take its name.

    The recipes build it again for each student, so each trial starts from other weights. A `.keras`
    file has the same weights for all trials.

    Args:
        name: Name of the network: a letter, then letters, digits and `_`.
        builder: Function of `num_classes`, `input_shape` and `name`, given by keyword, that returns
            a functional `keras.Model` from images to logits. A softmax at its end is removed. It
            takes normalized images, as the other networks of the zoo do.

    Raises:
        ValueError: If the name has other characters, or is that of another network.
    """
    # A hyphen separates the two names of a pair, a colon the source of a network, a dot the suffix
    # of a file. TensorFlow has no names that begin with `_`.
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)):
        raise ValueError(
            f"`name` must be a letter, then letters, digits and '_'. Received: name={name!r}"
        )
    if not callable(builder):
        raise ValueError(
            "`builder` must be a function of num_classes, input_shape and name. "
            f"Received: builder={builder!r}"
        )
    if name in _NETWORKS or _ADDED.get(name, builder) is not builder:
        raise ValueError(f"`name` must be new. Received: name={name!r}, which is in the zoo")
    _ADDED[name] = builder


def build(name, num_classes=None, input_shape=None):
    """Build a network of the zoo with fresh weights.

    Args:
        name: One of `letkd_keras.models.names()`, e.g. `"resnet56"`. Those that begin with
            `imagenet_` shrink the image 32 times, the others 4 to 16 times.
        num_classes: Number of classes, at least 2. `None` is 100, for ImageNet networks 1000.
        input_shape: Shape of an image without the batch dimension, in Keras' data format. Height
            and width may be `None`; KD layers then cannot be checked against a teacher's grid
            before training. `None` is 32x32, for ImageNet networks 224x224, in three channels.

    Returns:
        A functional `keras.Model` from images to logits [B, num_classes], with the layers
        `penultimate`, `intermediate` and `stage1`, `stage2`, ... Its weights start as those of the
        PyTorch network do.

    Raises:
        ValueError: If the name is not in the table (it is listed) or a number is out of range.
    """
    if name not in names():
        raise ValueError(
            f"`name` must be one of {', '.join(names())}. "
            f"Received: name={name!r}.{network_hint(name, names())}"
        )
    default_classes, default_size = (1000, 224) if name in _IMAGENET else (100, 32)
    if num_classes is None:
        num_classes = default_classes
    num_classes = class_count.check(num_classes, "num_classes")
    if input_shape is None:
        input_shape = image_shape(default_size)
    if not isinstance(input_shape, Iterable) or len(tuple(input_shape)) != 3:
        raise ValueError(
            "`input_shape` must be that of one image, three numbers. "
            f"Received: input_shape={input_shape}"
        )
    options = {"num_classes": num_classes, "input_shape": tuple(input_shape), "name": name}
    if name in _ADDED:
        return _built_by_user(_ADDED[name], options)
    function, *arguments = _NETWORKS[name]
    return pkgutil.resolve_name(f"letkd_keras.models.{function}")(*arguments, **options)


def _built_by_user(builder, options):
    from letkd_keras.functional.softmax_removal import remove_softmax

    model = builder(**options)
    # Neither a model of a class of the user nor one that is not built has shapes.
    shapes = [getattr(model, f"{side}_shape", None) for side in ("input", "output")]
    expected = [(None, *options["input_shape"]), (None, options["num_classes"])]
    if shapes != expected:
        found = type(model).__name__ if None in shapes else "from {} to {}".format(*shapes)
        raise ValueError(
            f"The `builder` of {options['name']} must return a functional keras.Model from "
            f"{expected[0]} to {expected[1]}. Received: {found}"
        )
    return remove_softmax(model, options["name"])


def network_hint(name, known, prefix=""):
    """Suggest the known name that `name` is part of ("resnet18"), else the closest.

    Returns:
        `" Did you mean 'imagenet_resnet18'?"`, with the prefix before the name, or an empty text.
    """
    name, lower = str(name).lower(), {each.lower(): each for each in known}
    whole = [each for each in lower if name and name in each]
    close = difflib.get_close_matches(name, whole or lower, n=1, cutoff=0.0 if whole else 0.6)
    return f" Did you mean {prefix + lower[close[0]]!r}?" if close else ""


def image_shape(size, channels=3):
    """Shape of one image, in Keras' data format."""
    import keras

    if keras.config.image_data_format() == "channels_first":
        return (channels, size, size)
    return (size, size, channels)
