import functools
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from letkd_keras import models
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.losses import LOGIT_LOSSES
from letkd_keras.recipes import cifar100, imagenet
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.experiments.methods import Inputs
from letkd_keras.recipes.experiments.settings import Pair
from letkd_keras.recipes.trainings.schedule import Schedule


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


def test_methods_that_need_all_images_are_refused_on_streamed_ones():
    streamed = SimpleNamespace(name="imagenet")
    with pytest.raises(ValueError, match=r"must be in memory. Received: imagenet"):
        methods.check(["kd", "crd"], streamed)
    methods.check(["kd"], streamed)


def test_crd_is_refused_on_several_gpus(monkeypatch):
    monkeypatch.setattr(methods, "_gpus", lambda: 2)
    data = SimpleNamespace(name="digits", y_train=[0, 1])
    with pytest.raises(ValueError, match=r"crd must be trained on one GPU.*Received: 2 GPUs"):
        methods.check(["crd"], data)
    methods.check(["sp"], data)


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
    settings = methods.logit_loss_settings(cifar100.SETTINGS, pair)
    assert settings["dkd"]["options"]["beta"] == settings["dkd-ls"]["options"]["beta"] == beta


# === Built from small networks ===


@functools.cache
def _network(name):
    return models.build(name, 3, (16, 16, 3))


def _inputs(settings=cifar100.SETTINGS, pair=None, epochs=240):
    pair = pair or settings.pairs[0]
    experiment = SimpleNamespace(
        data=SimpleNamespace(train_examples=128, y_train=np.arange(128) % 3),
        student_schedule=Schedule(epochs, 0.1, (), batch_size=64),
        logit_losses=methods.logit_loss_settings(settings, pair),
        student=SimpleNamespace(penultimate_layer="penultimate"),
        templates=5,
        penultimate_alpha=0.5,
        initial_template_scale=2.0,
    )
    return Inputs(_network("resnet14"), _network("resnet8"), None, experiment)


def test_kd_has_the_weights_of_repdistiller():
    model = methods.build("kd", _inputs())
    assert model.task_weight == 0.1
    assert model.distillation_weights == {"kd": 0.9}
    assert model.logit_losses["kd"].temperature == 4


def test_an_added_loss_leaves_the_cross_entropy_as_it_is():
    model = methods.build("sp+kd", _inputs())
    assert model.task_weight == 1
    assert model.distillation_weights["kd"] == 1
    model = methods.build("sp+kd-ls", _inputs())
    assert (model.task_weight, model.distillation_weights["kd_ls"]) == (1, 9)
    assert model.logit_losses["kd_ls"].standardize_logits


def test_dkd_warms_up_for_20_of_240_epochs_of_two_steps():
    model = methods.build("dkd", _inputs(epochs=240))
    assert model.warm_up_steps == 40
    assert methods.build("dkd", _inputs(epochs=24)).warm_up_steps == 4
    assert methods.build("sp+dkd", _inputs()).warm_up_steps == 40
    assert methods.build("kd", _inputs()).warm_up_steps == 0


def test_kd_and_dkd_have_their_settings_of_imagenet():
    resnets, mobilenet, _ = imagenet.SETTINGS.pairs
    kd = methods.build("kd", _inputs(imagenet.SETTINGS, resnets, epochs=100))
    assert (kd.task_weight, kd.distillation_weights["kd"]) == (0.5, 0.5)
    assert kd.logit_losses["kd"].temperature == 1
    for pair, beta in ((resnets, 0.5), (mobilenet, 2.0)):
        dkd = methods.build("dkd", _inputs(imagenet.SETTINGS, pair, epochs=100))
        loss = dkd.logit_losses["dkd"]
        assert (loss.temperature, loss.alpha, loss.beta) == (1, 1, beta)
        assert dkd.warm_up_steps == 2  # one epoch


def test_fitnet_layer_has_an_unsupervised_kd_layer_and_the_hint_of_stage_2():
    model = methods.build("fitnet_layer", _inputs())
    (layer,) = kd_layers_of(model.student).values()
    assert (layer.name, layer.templates, layer.alpha) == ("kd_penultimate", 5, 0.5)
    assert layer.initial_template_scale == 2.0
    plain = methods.build("fitnet", _inputs())
    assert model.student_layers == plain.student_layers
    assert model.teacher_layers == plain.teacher_layers
    assert set(model.distillation_weights) == {"hint"}


def test_the_student_alone_is_no_distiller():
    inputs = _inputs()
    assert methods.build("student", inputs) is inputs.student
    assert isinstance(methods.build("student", inputs), keras.Model)
    assert Pair("a", "b").name == "a-b"
