from types import SimpleNamespace

import pytest

from letkd_keras.recipes import methods
from letkd_keras.recipes.pairs import Pair, find_or_make


def test_unknown_methods_are_refused_and_those_there_are_listed():
    with pytest.raises(ValueError, match=r"one of student, kd, .*letkd2.*Did you mean letkd2\?"):
        methods.check("letkd3")


@pytest.mark.parametrize(
    ("names", "levels", "tapped"),
    [
        (("student", "kd", "crd+kd"), (), ()),
        (("kd", "letkd1+kd"), ("penultimate",), ("penultimate",)),
        (("letkd2", "quest"), ("penultimate", "intermediate"), ("penultimate", "intermediate")),
        (("fitnet_letkd",), ("penultimate",), ("penultimate",)),
        (("fitnet_layer",), (), ("penultimate",)),
    ],
)
def test_prototypes_are_fitted_and_taps_sought_where_a_method_needs_them(names, levels, tapped):
    assert methods.levels(names) == levels
    assert methods.tapped(names) == tapped


def test_kd_is_added_where_there_is_something_to_add_it_to():
    methods.check("letkd2+kd")
    assert methods.title("letkd2+kd") == "letKD-2 + KD"
    for name in ("student+kd", "kd+kd"):
        with pytest.raises(ValueError, match="KD cannot be added to"):
            methods.check(name)
    assert sorted(["crd", "letkd2+kd", "kd", "letkd2"], key=methods.place) == [
        *("kd", "crd", "letkd2", "letkd2+kd"),
    ]


def test_what_needs_all_images_is_refused_on_streamed_ones():
    streamed = SimpleNamespace(name="imagenet")
    with pytest.raises(ValueError, match=r"must be in memory. Received: imagenet"):
        methods.check("crd", streamed)
    methods.check("kd", streamed)


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
def test_dkd_weighs_as_its_authors_chose_for_the_pair(pair, beta):
    assert methods._dkd_beta(find_or_make(pair, "cifar100")) == beta


def test_any_two_networks_of_the_zoo_are_a_pair_without_published_numbers():
    pair = find_or_make("resnet20-mnv2", "cifar100")
    assert (pair, pair.published) == (Pair("resnet20", "mnv2", "cifar100", 0.01), {})
    assert find_or_make("resnet56-resnet20", "cifar100").published["kd"] == 70.66
    with pytest.raises(ValueError, match="`pair` must be one of"):
        find_or_make("resnet20-resnet9", "cifar100")
