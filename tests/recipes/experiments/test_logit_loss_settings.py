import pytest

from letkd_keras import models
from letkd_keras.recipes import cifar100
from letkd_keras.recipes.experiments import logit_loss_settings


@pytest.mark.parametrize(
    ("pair", "beta"),
    [
        ("resnet56-resnet20", 2),
        ("resnet110-resnet32", 2),
        ("wrn40_2-wrn16_2", 6),
        ("wrn40_2-snv1", 8),
        ("resnet32x4-resnet8x4", 8),
        ("resnet50-mnv2", 8),
    ],
)
def test_beta_of_dkd_is_that_of_its_authors_for_the_pair(pair, beta):
    pair = cifar100.SETTINGS.find_pair(pair, models.names())
    settings = logit_loss_settings.of_pair(cifar100.SETTINGS, pair)
    assert settings["dkd"]["options"]["beta"] == settings["dkd-ls"]["options"]["beta"] == beta
