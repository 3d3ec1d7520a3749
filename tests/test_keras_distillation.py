"""What docs/from_keras_distillation.md says of `keras.distillation` and of this package."""

import keras
import numpy as np
import pytest
from keras import layers

import letkd_keras

X = np.random.default_rng(0).standard_normal((8, 8, 8, 3)).astype("float32")
Y = np.arange(8) % 3
CE = keras.losses.SparseCategoricalCrossentropy
KL = keras.losses.KLDivergence


def _network(seed, regularizer=None, activation=None):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="convolution")(inputs)
    x = layers.BatchNormalization(name="normalization")(x)
    x = layers.GlobalAveragePooling2D()(x)
    head = layers.Dense(3, kernel_regularizer=regularizer, activation=activation)
    return keras.Model(inputs, head(x))


def _of_keras(loss, student=None, **options):
    student = student or _network(1)
    model = keras.distillation.Distiller(_network(0), student, loss, **options)
    model.compile("sgd", CE(from_logits=True), run_eagerly=True)
    return model


def _of_this_package(student=None, **options):
    options = {"temperature": 4.0, **options}
    model = letkd_keras.KD(_network(0), student or _network(1), **options)
    model.compile("sgd", CE(from_logits=True), run_eagerly=True)
    return model


def _logits_loss(temperature=4.0):
    return keras.distillation.LogitsDistillation(temperature, KL())


def _loss(model, **options):
    return model.train_on_batch(X, Y, return_dict=True, **options)["loss"]


def test_the_example_is_the_same_loss():
    keras_model = _of_keras(_logits_loss(), student_loss_weight=0.1)
    assert _loss(_of_this_package()) == pytest.approx(_total(keras_model), rel=1e-5)


def _total(model, **options):
    return model.train_on_batch(X, Y, return_dict=True, **options)["total_loss"]


def test_sample_weights():
    weights = np.array([0, 0, 0, 0, 1, 2, 3, 4], "float32")
    assert _total(_of_keras(_logits_loss()), sample_weight=weights) == pytest.approx(
        _total(_of_keras(_logits_loss()))
    )
    unweighted, weighted = (
        _loss(_of_this_package(), **options) for options in ({}, {"sample_weight": weights})
    )
    assert abs(weighted - unweighted) > 1e-3


def test_regularizers():
    students = [_network(1, regularizer) for regularizer in (None, keras.regularizers.L2(1.0))]
    without, with_one = (_total(_of_keras(_logits_loss(), student)) for student in students)
    assert with_one == pytest.approx(without)
    students = [_network(1, regularizer) for regularizer in (None, keras.regularizers.L2(1.0))]
    penalty = float(np.sum(np.square(students[1].layers[-1].kernel)))
    without, with_one = (_loss(_of_this_package(student)) for student in students)
    assert with_one - without == pytest.approx(penalty, rel=1e-4)


def _features():
    names = {"teacher_layer_name": "convolution", "student_layer_name": "convolution"}
    return keras.distillation.FeatureDistillation("mse", **names)


def test_runs_of_the_student_and_batch_normalization_in_evaluation():
    calls = []

    class Counting(layers.Conv2D):
        def call(self, inputs):
            calls.append(1)
            return super().call(inputs)

    def student():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((8, 8, 3))
        x = Counting(4, 3, name="convolution")(inputs)
        x = layers.BatchNormalization(name="normalization")(x)
        x = layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, layers.Dense(3)(x))

    keras_model = _of_keras(_features(), student())
    names = {"teacher_layers": ("convolution",), "student_layers": ("convolution",)}
    own_model = letkd_keras.distillers.FitNet(_network(0), student(), **names)
    own_model.compile("sgd", CE(from_logits=True))
    moved = []
    for model, runs in ((keras_model, 2), (own_model, 1)):
        model.run_eagerly = True
        calls.clear()
        model.train_on_batch(X, Y)
        assert len(calls) == runs
        mean = model.student.get_layer("normalization").moving_mean
        before = np.array(mean)
        model.evaluate(X, Y, verbose=0)
        moved.append(not np.array_equal(before, np.array(mean)))
    assert moved == [True, False]


def test_the_default_loss_on_logits():
    student, teacher = (np.random.default_rng(s).standard_normal((5, 3)) * 9 for s in (0, 1))
    by_name = keras.distillation.LogitsDistillation(2.0)
    by_class = keras.distillation.LogitsDistillation(2.0, KL())
    values = [float(loss.compute_loss(teacher, student)) for loss in (by_name, by_class)]
    assert abs(values[0] - values[1]) > 1e-3
    losses = {"kl": (by_name, 1.0)}
    model = letkd_keras.Distiller(_network(0), _network(1), logit_losses=losses)
    adapted = model.logit_losses["kl"]
    assert float(adapted((teacher, Y[:5]), student)) == pytest.approx(values[1], rel=1e-5)


def test_a_softmax_is_removed():
    student = _network(1, activation="softmax")
    model = _of_this_package(student)
    assert np.allclose(np.asarray(student(X)).sum(1), 1, atol=1e-5)
    assert not np.allclose(np.asarray(model.student(X)).sum(1), 1, atol=1e-2)
    assert np.allclose(keras.ops.softmax(model.student(X)), student(X), atol=1e-5)
