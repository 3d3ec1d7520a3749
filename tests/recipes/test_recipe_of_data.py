from dataclasses import replace

from letkd_keras.data.digits import load_digits
from letkd_keras.data.npz import save_npz
from letkd_keras.recipes import cifar100, compare, digits, folder, imagenet, tiny_imagenet
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.recipe_of_data import settings_of


def test_compare_uses_the_settings_of_the_data_set(tmp_path, cifar100_noise):
    recipes = {
        "digits": digits,
        "cifar10": cifar100,
        "cifar100": cifar100,
        f"tiny-imagenet:{tmp_path}": tiny_imagenet,
        f"imagenet:{tmp_path}": imagenet,
        "tfds:flowers": folder,
        str(tmp_path): folder,
        str(tmp_path / "images.npz"): folder,
    }
    (tmp_path / "images.npz").touch()
    for source, recipe in recipes.items():
        assert settings_of(compare.parse(["--data", source])) is recipe.SETTINGS
    parsed = compare.parse(["--data", "cifar100", "--pair", "resnet56-resnet20"])
    experiment = experiment_of(parsed, settings_of(parsed))
    assert experiment.student_schedule.epochs == 240
    assert experiment.methods == compare.METHODS


def test_a_file_has_the_settings_of_the_data_set_that_was_written_to_it(tmp_path):
    # Images that are enlarged digits, under the names of data sets and of selections from them.
    digits_data = load_digits(16)
    for name, recipe in {
        "cifar100": cifar100,
        "cifar100, first 20 classes": cifar100,
        "digits": digits,
        "photos": folder,
    }.items():
        save_npz(replace(digits_data, name=name), tmp_path / "images.npz")
        options = compare.parse(["--data", str(tmp_path / "images.npz")])
        assert settings_of(options) is recipe.SETTINGS
