import pytest

from letkd_keras.recipes import cifar100, imagenet
from letkd_keras.recipes.experiments import logit_loss_settings


@pytest.mark.parametrize(
    ("pair", "beta"),
    [
        ("resnet56-resnet20", 2),
        ("resnet110-resnet32", 2),
        ("resnet20-resnet8", 2),
        ("resnet14-resnet8", 2),
        ("wrn40_2-wrn16_2", 6),
        ("wrn40_2-snv1", 8),
        ("resnet32x4-resnet8x4", 8),
        ("resnet50-mnv2", 8),
    ],
)
def test_beta_of_dkd_is_that_of_its_authors_for_the_pair(pair, beta):
    assert _betas(cifar100.SETTINGS, pair) == {beta}


@pytest.mark.parametrize(
    ("pair", "beta"),
    [
        ("imagenet_resnet34-imagenet_resnet18", 0.5),
        ("imagenet_resnet50-imagenet_mobilenet_v1", 2),
        ("imagenet_resnet50-imagenet_mobilenet_v2", 2),
        ("imagenet_resnet34-imagenet_mobilenet_v1", 2),
    ],
)
def test_on_imagenet_the_pairs_beta_is_before_that_of_the_data_set(pair, beta):
    assert _betas(imagenet.SETTINGS, pair) == {beta}


def _betas(settings, pair):
    pair = settings.find_pair(pair)
    losses = logit_loss_settings.of_pair(settings, pair)
    return {losses[name]["options"]["beta"] for name in ("dkd", "dkd-ls")}
