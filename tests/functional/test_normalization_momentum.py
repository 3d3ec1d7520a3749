import logging

import keras
import numpy as np
import pytest
from keras import layers

from letkd_keras.distillers import LetKD
from letkd_keras.functional import limit_normalization_momentum
from letkd_keras.functional.graph import layers_inside
from letkd_keras.layers import KDLayer
from letkd_keras.prototypes import fit_prototypes


def _network(momentum, name="network"):
    """Two batch normalizations, one of them in a model inside."""
    inner_input = keras.Input((8, 8, 16))
    x = layers.BatchNormalization(momentum=momentum)(inner_input)
    inner = keras.Model(inner_input, layers.ReLU()(x), name="inner")
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 4, strides=4)(images)
    x = layers.Conv2D(16, 3, padding="same", name="map")(inner(x))
    x = layers.BatchNormalization(momentum=momentum)(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU(name="last_map")(x))
    return keras.Model(images, layers.Dense(10)(x), name=name)


def _momenta(model):
    return [
        layer.momentum
        for layer in layers_inside(model)
        if isinstance(layer, layers.BatchNormalization)
    ]


@pytest.mark.parametrize(
    ("steps", "momentum", "expected"),
    [
        (1_000, 0.999, 0.98),  # an average over 50 of 1,000 steps
        (1_000, 0.99, 0.98),
        (1_000, 0.9, 0.9),
        (20_000, 0.999, 0.999),
        (60, 0.999, 0.9),  # not over less than 10 steps
        (1, 0.999, 0.9),
        (60, 0.5, 0.5),
    ],
)
def test_averages_are_over_a_20th_of_the_steps_or_fewer(steps, momentum, expected):
    model = _network(momentum)
    limit_normalization_momentum(model, steps)
    assert _momenta(model) == pytest.approx([expected, expected])


def test_frozen_layers_keep_their_momentum(caplog):
    model = _network(0.999)
    model.get_layer("inner").trainable = False
    with caplog.at_level(logging.INFO):
        limit_normalization_momentum(model, 60)
    assert _momenta(model) == [0.999, 0.9]
    assert "momentum of 1 batch normalizations: 0.9 in place of 0.999" in caplog.text


def test_nothing_is_said_where_nothing_changes(caplog):
    with caplog.at_level(logging.INFO):
        limit_normalization_momentum(_network(0.99), 2_000)
    assert not caplog.records


def test_the_student_of_a_distiller_is_changed_and_its_teacher_is_not():
    teacher, student = _network(0.99, "teacher"), _network(0.999, "student")
    images = np.random.default_rng(0).random((40, 32, 32, 3), np.float32)
    labels = np.arange(40) % 10
    prototypes = fit_prototypes(
        teacher,
        [(images, labels)],
        levels=("penultimate",),
        templates=4,
        penultimate_layer="last_map",
    )
    model = LetKD(teacher, student, prototypes, penultimate_layer="last_map")
    limit_normalization_momentum(model, 60)
    assert set(_momenta(model.student)) == {0.9}
    assert _momenta(teacher) == [0.99, 0.99]


def test_a_saved_kd_layer_has_the_reduced_momentum(tmp_path):
    images = keras.Input((4, 4, 3))
    model = keras.Model(images, KDLayer(5, momentum=0.999, name="kd_penultimate")(images))
    limit_normalization_momentum(model, 60)
    model.save(tmp_path / "model.keras")
    for again in (
        keras.models.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
    ):
        assert _momenta(again) == [0.9]


@pytest.mark.parametrize("steps", [0, -1, 2.5, "60"])
def test_steps_are_a_positive_integer(steps):
    with pytest.raises(ValueError, match="`steps` must be"):
        limit_normalization_momentum(_network(0.99), steps)
