from letkd_keras.recipes import cifar100
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.recipe_command import default_out


def test_the_default_folder_has_the_data_and_the_pair(cifar100_noise):
    options = cifar100.parse(["--classes", "20", "--pair", "wrn40_2-snv1"])
    experiment = experiment_of(options, cifar100.SETTINGS)
    assert str(default_out(experiment)) == "runs/cifar100/wrn40_2-snv1"
    assert str(default_out(experiment, "compare-")).endswith("compare-wrn40_2-snv1")
