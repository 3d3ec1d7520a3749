import functools
from types import SimpleNamespace

import numpy as np
import pytest

from letkd_keras import LetKD, fit_prototypes, models
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.recipes import cifar100, imagenet
from letkd_keras.recipes.experiments import logit_loss_settings, methods
from letkd_keras.recipes.experiments.model_of_method import build
from letkd_keras.recipes.trainings.schedule import Schedule

# Alphas of the KD layers, where the experiment's are 0.3 and 0.4.
ALPHAS = {
    "fitnet_letkd": {"penultimate": 0.3},
    "quest": {"penultimate": 0},
    "letkd1": {"penultimate": 0.3},
    "letkd2": {"penultimate": 0.3, "intermediate": 0.4},
    "letkd_i0": {"intermediate": 0},
    "letkd_i1": {"intermediate": 0.4},
    "letkd_i0p0": {"penultimate": 0, "intermediate": 0},
    "letkd_i0p1": {"penultimate": 0.3, "intermediate": 0},
    "letkd_i1p0": {"penultimate": 0, "intermediate": 0.4},
}


@functools.cache
def _network(name):
    return models.build(name, 3, (16, 16, 3))


@functools.cache
def _prototypes():
    images = np.random.default_rng(0).standard_normal((6, 16, 16, 3)).astype("float32")
    numbers = {"templates": 5, "subclasses": 2, "components": 2, "iterations": 1}
    return fit_prototypes(_network("resnet14"), (images, np.arange(6) % 3), **numbers)


def _inputs(settings=cifar100.SETTINGS, pair=None, epochs=240):
    pair = pair or settings.pairs[0]
    experiment = SimpleNamespace(
        data=SimpleNamespace(train_examples=128, y_train=np.arange(128) % 3),
        student_schedule=Schedule(epochs, 0.1, (), batch_size=64),
        logit_losses=logit_loss_settings.of_pair(settings, pair),
        student=SimpleNamespace(penultimate_layer="penultimate"),
        templates=5,
        penultimate_alpha=0.5,
        initial_template_scale=2.0,
    )
    return _network("resnet14"), _network("resnet8"), None, experiment


def test_kd_has_the_weights_of_repdistiller():
    model = build("kd", *_inputs())
    assert model.task_weight == 0.1
    assert model.distillation_weights == {"kd": 0.9}
    assert model.logit_losses["kd"].temperature == 4


def test_simkd_has_no_cross_entropy():
    assert build("simkd", *_inputs()).task_weight == 0


def test_an_added_loss_leaves_the_cross_entropy_as_it_is():
    model = build("sp+kd", *_inputs())
    assert model.task_weight == 1
    assert model.distillation_weights["kd"] == 1
    model = build("sp+kd-ls", *_inputs())
    assert (model.task_weight, model.distillation_weights["kd_ls"]) == (1, 9)
    assert model.logit_losses["kd_ls"].standardize_logits


def test_dkd_warms_up_for_20_of_240_epochs_of_two_steps():
    model = build("dkd", *_inputs(epochs=240))
    assert model.warm_up_steps == 40
    assert build("dkd", *_inputs(epochs=24)).warm_up_steps == 4
    assert build("sp+dkd+kd", *_inputs()).warm_up_steps == 40
    assert build("kd", *_inputs()).warm_up_steps == 0


def test_kd_and_dkd_have_their_settings_of_imagenet():
    resnets, mobilenet, _ = imagenet.SETTINGS.pairs
    kd = build("kd", *_inputs(imagenet.SETTINGS, resnets, epochs=100))
    assert (kd.task_weight, kd.distillation_weights["kd"]) == (0.5, 0.5)
    assert kd.logit_losses["kd"].temperature == 1
    for pair, beta in ((resnets, 0.5), (mobilenet, 2.0)):
        dkd = build("dkd", *_inputs(imagenet.SETTINGS, pair, epochs=100))
        loss = dkd.logit_losses["dkd"]
        assert (loss.temperature, loss.alpha, loss.beta) == (1, 1, beta)
        assert dkd.warm_up_steps == 2  # one epoch


def test_fitnet_layer_has_an_unsupervised_kd_layer_and_the_hint_of_stage_2():
    model = build("fitnet_layer", *_inputs())
    (layer,) = kd_layers_of(model.student).values()
    assert (layer.name, layer.templates, layer.alpha) == ("kd_penultimate", 5, 0.5)
    assert layer.initial_template_scale == 2.0
    plain = build("fitnet", *_inputs())
    assert model.student_layers == plain.student_layers
    assert model.teacher_layers == plain.teacher_layers
    assert set(model.distillation_weights) == {"hint"}


def test_the_student_alone_is_no_distiller():
    assert build("student", *_inputs()) is _network("resnet8")


@pytest.mark.parametrize("name", [name for name, row in methods.METHODS.items() if row.levels])
def test_methods_with_prototypes_have_the_settings_of_the_experiment(name):
    (teacher, student, _, experiment), alphas = _inputs(), ALPHAS[name]
    layers = {"penultimate": "stage3", "intermediate": "layer3_0_relu1"}
    vars(experiment).update(
        student=SimpleNamespace(**{f"{level}_layer": layer for level, layer in layers.items()}),
        penultimate_alpha=0.3,
        intermediate_alpha=0.4,
        penultimate_weight=2,
        intermediate_weight=3,
        temperature=0.5,
        block_size=4,
        initial_template_scale=5,
    )
    model = build(name, teacher, student, _prototypes(), experiment)
    kd_layers = {level: model.student.get_layer(f"kd_{level}") for level in model.levels}
    assert model.levels == tuple(alphas)
    assert len(kd_layers_of(model.student)) == len(alphas)
    assert {level: layer.alpha for level, layer in kd_layers.items()} == alphas
    assert {layer.initial_template_scale for layer in kd_layers.values()} == {5}
    assert model.student_layers[: len(alphas)] == tuple(layers[level] for level in alphas)
    weights = {level: model.distillation_weights[f"kl_{level}"] for level in alphas}
    assert weights == {level: {"penultimate": 2, "intermediate": 3}[level] for level in alphas}
    assert (model.temperature, model.block_size) == (0.5, 4)


def test_a_method_may_give_its_distiller_options_of_its_own(monkeypatch):
    distiller = functools.partial(LetKD, name="mine")
    own = methods.Method("own", distiller, levels=("intermediate",))
    monkeypatch.setitem(methods.METHODS, "own", own)
    *networks, _, experiment = _inputs()
    vars(experiment).update(
        temperature=1.0,
        block_size=None,
        intermediate_alpha=0.4,
        intermediate_weight=1.0,
        student=SimpleNamespace(intermediate_layer="intermediate"),
    )
    model = build("own", *networks, _prototypes(), experiment)
    assert model.levels == ("intermediate",)
    assert model.name == "mine"
