from image_trees import write_tree

from letkd_keras.data import __main__ as data_command
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
    for source, recipe in {
        "digits": digits,
        str(write_tree(tmp_path / "cifar100", images=8)): folder,  # a folder is no data set
    }.items():
        file = tmp_path / "images.npz"
        data_command.main(["--data", source, "--out", str(file)])
        assert settings_of(compare.parse(["--data", str(file)])) is recipe.SETTINGS
        again = tmp_path / "again.npz"
        data_command.main(["--data", str(file), "--classes", "2", "--out", str(again)])
        assert settings_of(compare.parse(["--data", str(again)])) is recipe.SETTINGS
