import pytest

from letkd_keras import models
from letkd_keras.recipes import cifar100, digits, folder, imagenet, tiny_imagenet
from letkd_keras.recipes.experiments.published import TABLES, methods_of
from letkd_keras.recipes.experiments.settings import Pair, Settings

PAPER = (cifar100.SETTINGS, tiny_imagenet.SETTINGS, imagenet.SETTINGS)


@pytest.mark.parametrize(("settings", "count"), list(zip(PAPER, (10, 5, 3), strict=True)))
def test_pairs_of_the_paper(settings, count):
    names = [pair.name for pair in settings.pairs]
    assert len(names) == len(set(names)) == count
    assert settings.pair in names
    for pair in settings.pairs:
        assert {pair.teacher, pair.student} <= set(models.names())


def test_every_pair_with_published_numbers_is_in_a_recipe():
    assert {settings.dataset for settings in PAPER} == {table.dataset for table in TABLES}
    for settings in PAPER:
        published = [pair for pair in settings.pairs if methods_of(settings.dataset, pair.name)]
        assert len(published) == len(settings.pairs) - (settings.dataset == "imagenet")


def test_learning_rates_of_students():
    for settings in PAPER:
        for pair in settings.pairs:
            small = pair.student in ("snv1", "snv2", "mnv2")
            expected = 0.1 if settings.dataset == "imagenet" else 0.01 if small else 0.05
            assert pair.learning_rate == expected, pair


def test_alphas_differ_from_one_only_for_mobilenet_v2():
    alphas = {
        (settings.dataset, pair.name): (pair.penultimate_alpha, pair.intermediate_alpha)
        for settings in PAPER
        for pair in settings.pairs
        if (pair.penultimate_alpha, pair.intermediate_alpha) != (1, 1)
    }
    assert alphas == {
        ("cifar100", "resnet50-mnv2"): (0.1, 0.2),
        ("tiny_imagenet", "resnet50-mnv2"): (0.5, 1),
    }


def test_schedules_of_the_paper():
    for settings in PAPER[:2]:
        assert (settings.epochs, settings.batch_size, settings.learning_rate) == (240, 64, 0.05)
        assert (settings.milestones, settings.weight_decay) == ((150, 180, 210), 5e-4)
    settings = imagenet.SETTINGS
    assert (settings.epochs, settings.batch_size, settings.learning_rate) == (100, 256, 0.1)
    assert (settings.milestones, settings.weight_decay) == ((30, 60, 90), 1e-4)
    for settings in PAPER:
        assert (settings.templates, settings.subclasses, settings.components) == (4096, 8, 60)
        assert settings.iterations == 20


def test_augmentation_of_the_paper():
    assert cifar100.SETTINGS.augmentation == {"crop_padding": 4, "flip": True}
    expected = {"rotation": 20.0, "crop_padding": 0, "flip": True}
    assert tiny_imagenet.SETTINGS.augmentation == expected
    expected = {"area": (0.08, 1.0), "aspect": (0.75, 4 / 3), "flip": True}
    assert imagenet.SETTINGS.augmentation == expected
    # The mirror image of a digit is not a digit.
    assert not digits.SETTINGS.augmentation["flip"]


def test_mobilenets_of_imagenet_are_named_for_what_they_are():
    _, first, second = imagenet.SETTINGS.pairs
    assert "MobileNetV1" in first.note and methods_of("imagenet", first.name)
    assert "not in the paper" in second.note and not methods_of("imagenet", second.name)


def test_an_unknown_pair_is_refused_with_those_that_exist():
    with pytest.raises(
        ValueError, match=r"one of wrn40_2-wrn16_2, .*Did you mean resnet56-resnet20\?"
    ):
        cifar100.SETTINGS.find_pair("resnet56-resnet2")
    with pytest.raises(ValueError, match="must be two networks of the zoo"):
        folder.SETTINGS.find_pair("resnet20-resnet9")


def test_any_two_networks_of_the_zoo_are_a_pair():
    settings = cifar100.SETTINGS
    assert Pair("resnet20", "mnv2").name == "resnet20-mnv2"
    assert settings.find_pair("resnet20-mnv2") == Pair("resnet20", "mnv2", 0.01)
    assert settings.find_pair("resnet20-resnet8").learning_rate == 0.05
    for settings in PAPER[:2]:
        for student in ("snv1", "snv2", "mnv2"):
            pair = settings.find_pair(f"resnet32x4-{student}")
            assert pair.learning_rate == 0.01, (settings.dataset, student)
    pair = imagenet.SETTINGS.find_pair("imagenet_resnet34-imagenet_mobilenet_v2")
    assert pair.learning_rate == 0.1


def test_a_pair_of_the_table_keeps_its_settings():
    pair = cifar100.SETTINGS.find_pair("resnet50-mnv2")
    assert (pair.penultimate_alpha, pair.intermediate_alpha) == (0.1, 0.2)
    assert Settings("x", learning_rate=0.3).learning_rate_of("anything") == 0.3
