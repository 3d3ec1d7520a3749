from functools import partial

import pytest

from letkd_keras.distillers import AT, Distiller, LetKD, SimKD
from letkd_keras.losses import LOGIT_LOSSES
from letkd_keras.recipes.experiments import methods, preparation


def test_unknown_methods_are_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"of student, kd, .*letkd2.*Did you mean letkd2\?"):
        methods.parse("letkd3")


def test_unknown_losses_are_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"one of kd, kd-ls, .*Did you mean dkd-ls\?"):
        methods.parse("letkd2+dkd-l")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("student+kd", "a method of its own: kd. Received: student"),
        ("kd+kd", "only once"),
        ("letkd2+dkd+dkd", "only once"),
    ],
)
def test_losses_that_cannot_be_added(name, message):
    with pytest.raises(ValueError, match=message):
        methods.parse(name)


def test_no_loss_is_added_to_a_distiller_that_has_its_own(monkeypatch):
    own = methods.Method("own", partial(Distiller, logit_losses={"kd": 1.0}))
    monkeypatch.setitem(methods.METHODS, "own", own)
    monkeypatch.setitem(methods.METHODS, "at9", methods.Method("AT", partial(AT, weight=9.0)))
    assert methods.parse("own") == (own, ())
    assert methods.parse("at9+dkd")[1] == ("dkd",)
    with pytest.raises(ValueError, match=r"`logit_losses` of its own.*Received: own\+dkd"):
        methods.parse("own+dkd")


def test_a_loss_has_the_name_of_its_key(monkeypatch):
    monkeypatch.setitem(LOGIT_LOSSES, "mine", LOGIT_LOSSES["dkd"])
    assert methods.parse("mine")[0].logit_losses == ("mine",)


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "", "teacher", "exported"])
def test_the_name_of_a_method_is_that_of_a_folder(name, monkeypatch):
    monkeypatch.setitem(methods.METHODS, name, methods.METHODS["at"])
    with pytest.raises(ValueError, match=f"that of a folder: .*Received: {name}$"):
        methods.parse(name)


def test_a_distiller_with_options_is_of_its_class(monkeypatch):
    own = {"simkd1": partial(SimKD, factor=1), "letkd_own": partial(LetKD), "at9": partial(AT)}
    for name, distiller in own.items():
        monkeypatch.setitem(methods.METHODS, name, methods.Method(name, distiller))
    only_labels = {name: methods.only_labels_train_classifier(name) for name in own}
    assert only_labels == {"simkd1": False, "letkd_own": True, "at9": True}
    preparation._check_quantization_aware(["letkd_own"])
    with pytest.raises(ValueError, match=r"letkd_own.* Received: methods with at9"):
        preparation._check_quantization_aware(["letkd_own", "at9"])


def test_every_loss_is_a_method_and_can_be_added():
    for loss in LOGIT_LOSSES:
        assert methods.METHODS[loss].logit_losses == (loss,)
        assert methods.parse(f"letkd2+{loss}")[1] == (loss,)
    assert methods.title("letkd2+dkd") == "letKD-2 + DKD"
    assert methods.title("letkd1+kd+dist") == "letKD-1 + KD + DIST"


def test_names_are_sorted_as_in_the_table():
    names = ["crd", "letkd2+kd", "mine", "kd", "letkd2"]
    assert sorted(names, key=methods.position) == ["kd", "crd", "letkd2", "letkd2+kd", "mine"]


BOTH = ("penultimate", "intermediate")


@pytest.mark.parametrize(
    ("names", "levels", "layers"),
    [
        (("student", "kd", "crd+kd"), (), ()),
        (("kd", "letkd1+kd"), ("penultimate",), ("penultimate",)),
        (("letkd2", "quest"), BOTH, BOTH),
        # No prototypes have the intermediate level only.
        (("letkd_i1",), BOTH, BOTH),
        # Table 6: FitNet's own hint, and a KD layer at the penultimate layer.
        (("fitnet_letkd",), ("penultimate",), ("penultimate",)),
        (("fitnet_layer",), (), ("penultimate",)),
    ],
)
def test_prototypes_and_layers_that_methods_need(names, levels, layers):
    assert methods.levels_of(names) == levels
    assert methods.layers_of(names) == layers


def test_what_becomes_of_the_kd_layers():
    removable = {"quest", "letkd_i0", "letkd_i0p0"}
    for name, method in methods.METHODS.items():
        needs = method.levels or method.layers
        expected = "none" if not needs else "stay in the student"
        assert method.kd_layers == ("not needed at inference" if name in removable else expected)


def test_letkd1_replaces_letkd2_without_intermediate_layer():
    assert methods.without_intermediate_level("letkd2") == "letkd1"
    assert methods.without_intermediate_level("letkd2+dkd") == "letkd1+dkd"
    for name in ("student", "fitnet_letkd", "quest"):
        assert methods.without_intermediate_level(name) == name
    with pytest.raises(ValueError, match=r"letkd_i0p1 needs an intermediate layer.*letkd1"):
        methods.without_intermediate_level("letkd_i0p1")
