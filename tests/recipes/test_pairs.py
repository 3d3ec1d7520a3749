import pytest

from letkd_keras import models
from letkd_keras.recipes import pairs


@pytest.mark.parametrize(
    "dataset, count", [("cifar100", 10), ("tiny_imagenet", 5), ("imagenet", 3)]
)
def test_number_of_pairs(dataset, count):
    assert len(pairs.names(dataset)) == len(set(pairs.names(dataset))) == count


def test_networks_are_in_the_zoo():
    for pair in pairs.PAIRS:
        assert {pair.teacher, pair.student} <= set(models.names())
    assert pairs.datasets() == ["cifar100", "tiny_imagenet", "imagenet"]


def test_slim_students_start_at_a_smaller_rate():
    for pair in pairs.PAIRS:
        slim = pair.student in ("snv1", "snv2", "mnv2")
        expected = 0.1 if pair.dataset == "imagenet" else 0.01 if slim else 0.05
        assert pair.learning_rate == expected, pair


def test_alphas_differ_from_one_only_for_the_small_mobilenet():
    alphas = {
        (pair.dataset, pair.name): (pair.penultimate_alpha, pair.intermediate_alpha)
        for pair in pairs.PAIRS
        if (pair.penultimate_alpha, pair.intermediate_alpha) != (1, 1)
    }
    assert alphas == {
        ("cifar100", "resnet50-mnv2"): (0.1, 0.2),
        ("tiny_imagenet", "resnet50-mnv2"): (0.5, 1),
    }


@pytest.mark.parametrize(
    "dataset, name, method, accuracy",
    [
        ("cifar100", "wrn40_2-wrn16_2", "letkd2", 76.56),
        ("cifar100", "resnet32x4-snv2", "simkd", 77.78),
        ("tiny_imagenet", "wrn40_2-snv1", "letkd1", 65.70),
        ("tiny_imagenet", "resnet56-resnet20", "letkd2", 57.35),
        ("imagenet", "imagenet_resnet34-imagenet_resnet18", "quest", 71.67),
        ("imagenet", "imagenet_resnet50-imagenet_mobilenet_v1", "letkd2", 73.98),
    ],
)
def test_published_accuracy(dataset, name, method, accuracy):
    assert pairs.find(name, dataset).published[method] == accuracy


def test_top5_is_above_top1():
    for pair in pairs.PAIRS:
        assert pair.dataset != "imagenet" or set(pair.published_top5) == set(pair.published)
        for method, top5 in pair.published_top5.items():
            assert top5 > pair.published[method]
    row = pairs.find("imagenet_resnet34-imagenet_resnet18", "imagenet")
    assert row.published_top5["letkd2"] == 91.15


def test_mobilenets_of_imagenet_are_named_for_what_they_are():
    first, second = (
        pairs.find(f"imagenet_resnet50-imagenet_mobilenet_v{version}", "imagenet")
        for version in (1, 2)
    )
    assert "MobileNetV1" in first.note and first.published
    assert not second.published and "not in the paper" in second.note


def test_letkd_beats_what_it_is_compared_with_except_simkd_and_dkd():
    """Columns in the order of the paper's table: a slip would show here."""
    for pair in pairs.PAIRS:
        published = pair.published
        if "quest" in published:
            assert published["student"] < published["letkd1"] < published["letkd2"]
            assert published["quest"] < published["letkd1"]


def test_unknown_pair_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"wrn40_2-wrn16_2, .*Did you mean resnet56-resnet20\?"):
        pairs.find("resnet56-resnet2", "cifar100")
