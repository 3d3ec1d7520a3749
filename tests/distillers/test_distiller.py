"""What all distillers make of the compiled loss and the regularizers."""

import keras
import numpy as np
import pytest

from letkd_keras.distillers import KD, Distiller, SimKD

LAYERS = {"student_layers": ("penultimate",), "teacher_layers": ("penultimate",)}


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_regularizers_count_once_whatever_the_weight_of_the_task(setting, weight):
    model = KD(setting.teacher, setting.student(l2=0.1), task_weight=weight)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    penalty = 0.1 * float(np.sum(np.square(model.student.get_layer("fc").kernel)))
    logs = model.train_on_batch(setting.x, setting.y, return_dict=True)
    plain = KD(setting.teacher, setting.student(), task_weight=weight)
    plain.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
    expected = plain.train_on_batch(setting.x, setting.y, return_dict=True)
    assert logs["task_loss"] == pytest.approx(expected["task_loss"], rel=1e-5)
    assert logs["loss"] == pytest.approx(expected["loss"] + penalty, rel=1e-5)
    # Evaluation is that of any model: its loss has the regularizers.
    evaluated = model.evaluate(setting.x, setting.y, verbose=0)
    own = plain.evaluate(setting.x, setting.y, verbose=0)
    assert evaluated == pytest.approx(own + penalty, rel=1e-5)


def test_without_a_weight_of_the_task_regularizers_still_move_weights(setting):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, kernel_regularizer=keras.regularizers.L2(0.5))(inputs)
    x = keras.layers.Identity(name="penultimate")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    student = keras.Model(inputs, keras.layers.Dense(3)(x))
    model = SimKD(setting.teacher, student, weight=0.0, **LAYERS)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    before = np.array(model.student.layers[1].kernel)
    model.train_on_batch(setting.x, setting.y)
    # The gradient of 0.5 |w|^2 is w.
    np.testing.assert_allclose(model.student.layers[1].kernel, 0.9 * before, rtol=1e-5)


def test_a_subclass_changes_training_and_evaluation_by_compute_loss(setting):
    class Doubled(Distiller):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    logs = []
    for method in (Distiller, Doubled):
        model = method(setting.teacher, setting.student())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.0), loss, run_eagerly=True)
        trained = model.train_on_batch(setting.x, setting.y, return_dict=True)
        logs.append(
            [trained["loss"], trained["task_loss"], model.evaluate(setting.x, setting.y, verbose=0)]
        )
    np.testing.assert_allclose(logs[1], 2 * np.array(logs[0]), rtol=1e-3)
