"""The recipe of each data set, whose settings `compare` and `ablations` use."""

from letkd_keras.recipes import cifar100, digits, folder, imagenet, tiny_imagenet

_RECIPES = {
    "digits": digits,
    "cifar10": cifar100,
    "cifar100": cifar100,
    "tiny_imagenet": tiny_imagenet,
    "imagenet": imagenet,
}


def settings_of(options):
    """The `Settings` of the recipe of the data set that `--data` names.

    An `.npz` file has those of the data set that was written to it. A folder and other data of
    tensorflow-datasets have those of the recipe `folder`.

    Raises:
        ValueError: If there is no such data set.
    """
    from letkd_keras.data import DataSpec

    return _RECIPES.get(DataSpec.from_options(options).dataset, folder).SETTINGS
