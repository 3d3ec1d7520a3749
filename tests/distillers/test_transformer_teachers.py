"""Teachers with tokens, and grids that do not divide."""

import logging
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from small_problem import small_images
from small_vit import small_vit

from letkd_keras import LetKD, fit_prototypes
from letkd_keras.distillers import AT, KD, SP, VID, FitNet
from letkd_keras.layers import adaptive_average_pool

NUMBERS = {"templates": 6, "subclasses": 2, "components": 2, "iterations": 2}


def _student(size=28, stride=4, name="student"):
    """Two blocks on a grid of `size / stride`."""
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((size, size, 3))
    for layer in ("stem", "intermediate", "penultimate"):
        strides = stride if layer == "stem" else 1
        x = keras.layers.Conv2D(5, 3, strides, padding="same", activation="relu", name=layer)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x), name=name)


@pytest.fixture(scope="module")
def vit():
    """A teacher with tokens on a grid of 7x7, its prototypes and images."""
    x, y = small_images(24, classes=3, size=28)
    teacher = small_vit(tokens=2)
    return SimpleNamespace(
        teacher=teacher, x=x, y=y, prototypes=fit_prototypes(teacher, (x, y), **NUMBERS)
    )


def _compiled(model, **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss, **kwargs)
    return model


def test_prototypes_are_those_of_the_patches(vit):
    prototypes = vit.prototypes
    assert (prototypes.penultimate.layer, prototypes.intermediate.layer) == ("norm", "block3")
    assert prototypes.penultimate.grid == prototypes.intermediate.grid == (7, 7)
    # As many feature vectors as patches.
    assert prototypes.manifest["health"]["penultimate"]["all_points"] == 24 * 49
    prototypes.check_teacher(vit.teacher)


def test_a_transformer_distills_to_a_convolutional_student(vit, tmp_path):
    model = _compiled(LetKD(vit.teacher, _student(), vit.prototypes))
    assert model.grids == {"penultimate": None, "intermediate": None}
    outputs = model.compute_teacher_outputs(vit.x, vit.y)
    assert [f.shape for f in outputs["features"]] == [(24, 7, 7, 12)] * 2
    history = model.fit(vit.x, vit.y, batch_size=8, epochs=2, verbose=0).history
    assert np.isfinite([history["kl_penultimate"], history["kl_intermediate"]]).all()
    assert history["kl_intermediate"][1] < history["kl_intermediate"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.compute_teacher_outputs(vit.x, vit.y)
    for level in model.levels:
        np.testing.assert_allclose(again[level][0], outputs[level][0], rtol=1e-4, atol=1e-5)
    model.student.save(tmp_path / "student.keras")
    student = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(student(vit.x), model(vit.x), rtol=1e-5, atol=1e-6)


def test_other_methods_use_the_stage_ends_of_a_transformer(vit):
    for method in (KD, FitNet, AT, SP, VID):
        model = _compiled(method(vit.teacher, _student(stride=3)), run_eagerly=True)
        logs = model.train_on_batch(vit.x, vit.y, return_dict=True)
        assert np.isfinite(list(logs.values())).all(), method


def test_a_student_with_tokens_is_refused(vit):
    with pytest.raises(ValueError, match=r"layer of the student with a feature map .*'norm'.*51"):
        LetKD(vit.teacher, small_vit(tokens=2, seed=5), vit.prototypes, levels=("penultimate",))


# Grids that do not divide


def test_finer_targets_are_averaged_as_distributions(vit, caplog):
    with caplog.at_level(logging.INFO):
        model = _compiled(LetKD(vit.teacher, _student(stride=8), vit.prototypes), run_eagerly=True)
    assert "targets of the penultimate level are averaged to a grid of 4x4" in caplog.text
    assert model.grids == {"penultimate": (4, 4), "intermediate": (4, 4)}
    fine = LetKD(vit.teacher, _student(), vit.prototypes)
    outputs, whole = (m.compute_teacher_outputs(vit.x, vit.y) for m in (model, fine))
    for level in model.levels:
        targets, plogp = (np.array(part, "float64") for part in outputs[level])
        expected = adaptive_average_pool(whole[level][0], (4, 4))
        np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-5)
        entropy = np.where(targets > 0, targets * np.log(np.maximum(targets, 1e-300)), 0).sum(-1)
        np.testing.assert_allclose(plogp, entropy, rtol=1e-3, atol=1e-5)
    logs = model.train_on_batch(vit.x, vit.y, return_dict=True)
    # The KL divergence of distributions is never negative.
    assert logs["kl_penultimate"] > 0 and logs["kl_intermediate"] > 0


def test_finer_scores_are_averaged(caplog, tmp_path):
    x, y = small_images(24, classes=3, size=28)
    teacher = _student(stride=8, name="teacher")
    prototypes = fit_prototypes(teacher, (x, y), **NUMBERS)
    with caplog.at_level(logging.INFO):
        model = _compiled(LetKD(teacher, _student(), prototypes))
    assert "scores of the intermediate level are averaged to a grid of 4x4" in caplog.text
    layer = model.student.get_layer("kd_penultimate")
    features = keras.Model(model.student.inputs, layer.input)(x, training=True)
    scores = model.compute_student_outputs(x)["penultimate"]
    expected = adaptive_average_pool(layer.scores(features), (4, 4))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.grids == model.grids == {"penultimate": (4, 4), "intermediate": (4, 4)}
    loaded.fit(x, y, batch_size=8, verbose=0)


def test_pooling_of_the_teacher_brings_odd_grids_to_the_students(vit):
    prototypes = fit_prototypes(vit.teacher, (vit.x, vit.y), pool_size=2, **NUMBERS)
    assert prototypes.penultimate.grid == (4, 4)
    model = LetKD(vit.teacher, _student(stride=8), prototypes)
    assert model.grids == {"penultimate": None, "intermediate": None}
    targets = model.compute_teacher_outputs(vit.x, vit.y)["penultimate"][0]
    assert targets.shape == (24, 4, 4, 6)
