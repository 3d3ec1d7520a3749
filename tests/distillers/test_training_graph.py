import keras
import numpy as np
import pytest

from letkd_keras import KDLayer, insert_kd_layers, models
from letkd_keras.distillers.training_graph import TrainingGraph


def test_it_computes_the_students_logits_the_scores_and_further_layers():
    x = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype("float32")
    kd = {"penultimate": KDLayer(5, name="p"), "intermediate": KDLayer(6, name="i")}
    student = insert_kd_layers(models.build("resnet8", 10), **kd)
    outputs = TrainingGraph(student, kd, layers=("stage2",))(x, training=False)
    np.testing.assert_allclose(outputs["logits"], student(x), rtol=1e-4, atol=1e-5)
    features = keras.Model(student.inputs, student.get_layer("penultimate").output)(x)
    expected = kd["penultimate"].scores(features)
    np.testing.assert_allclose(outputs["penultimate"], expected, rtol=1e-4, atol=1e-5)
    assert outputs["intermediate"].shape == (2, 8, 8, 6)
    stage = keras.Model(student.inputs, student.get_layer("stage2").output)(x)
    np.testing.assert_allclose(outputs["features"][0], stage, rtol=1e-4, atol=1e-5)

    averaged = TrainingGraph(student, kd, {"penultimate": (4, 4)})(x, training=False)["penultimate"]
    pooled = np.asarray(expected).reshape(2, 4, 2, 4, 2, 5).mean((2, 4))
    np.testing.assert_allclose(averaged, pooled, rtol=1e-4, atol=1e-5)
    # A KD layer that pools first elsewhere, and the pooling that it replaces there.
    pooling = next(
        x.name for x in student.layers if isinstance(x, keras.layers.GlobalAveragePooling2D)
    )
    for layers in (("p", pooling), (pooling,)):
        features = TrainingGraph(student, kd, layers=layers)(x, training=False)["features"]
        for name, actual in zip(layers, features, strict=True):
            wanted = keras.Model(student.inputs, student.get_layer(name).output)(x)
            np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="`layers` must name a layer"):
        TrainingGraph(student, kd, layers=("stage9",))


def test_a_pooling_to_maps_of_one_location_is_not_replaced():
    x = np.random.default_rng(0).uniform(size=(2, 4, 4, 3)).astype("float32")
    inputs, kd = keras.Input((4, 4, 3)), KDLayer(5)
    maps = kd(keras.layers.Conv2D(6, 1)(inputs))
    maps = keras.layers.GlobalAveragePooling2D(keepdims=True)(maps)
    logits = keras.layers.Flatten()(keras.layers.Conv2D(3, 1)(maps))
    student = keras.Model(inputs, logits)
    outputs = TrainingGraph(student, {"penultimate": kd})(x, training=False)
    np.testing.assert_allclose(outputs["logits"], student(x), rtol=1e-4, atol=1e-5)
