"""Batches in which some images have no label; also run on JAX by `test_jax_parity.py`."""

import logging

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from small_problem import SIZES, small_images, small_teacher

from letkd_keras import LetKD, fit_prototypes
from letkd_keras.distillers import CRD, KD, Distiller
from letkd_keras.distillers.unlabelled import (
    complete_labels,
    labelled,
    mean_over_labelled,
    weighted,
)
from letkd_keras.losses import DKDLoss

CLASSES = 5


def _numpy(x):
    return keras.ops.convert_to_numpy(x)


def test_the_teachers_class_completes_the_labels():
    logits = keras.ops.convert_to_tensor([[0.0, 2, 1], [3, 0, 0], [0, 0, 1]])
    labels = keras.ops.convert_to_tensor([2, -1, -1])
    assert _numpy(complete_labels(labels, logits)).tolist() == [2, 0, 2]
    assert _numpy(complete_labels(labels[:, None], logits)).tolist() == [[2], [0], [2]]
    for dtype in ("int8", "float32"):
        completed = complete_labels(keras.ops.cast(labels, dtype), logits)
        assert keras.backend.standardize_dtype(completed.dtype) == dtype
    mixed = keras.ops.convert_to_tensor(np.eye(3))
    assert complete_labels(mixed, logits) is mixed
    assert labelled(mixed, 3) is None


def test_the_type_tells_labels_of_an_undeclared_width():
    y = {dtype: keras.KerasTensor((None, None), dtype) for dtype in ("float32", "int64")}
    assert labelled(y["float32"], 3) is None
    assert labelled(y["int64"], 3) is not None


def test_labels_that_are_true_or_false_are_all_labels():
    y = keras.ops.convert_to_tensor([True, False])
    assert labelled(y, 2) is None
    assert complete_labels(y, keras.ops.zeros((2, 2))) is y


def test_one_of_two_weights_may_be_left_out():
    weights = keras.ops.convert_to_tensor([0.5, 2.0])
    assert weighted(None, weights) is weights
    assert weighted(weights, None) is weights
    assert weighted(None, None) is None
    assert _numpy(weighted(weights, weights[:, None])).tolist() == [0.25, 4.0]


def test_weights_by_hand():
    labels = keras.ops.convert_to_tensor([2, -1, 0, -1])
    assert _numpy(labelled(labels, 3)).tolist() == [1, 0, 1, 0]
    # Four images, two of them with a label.
    assert _numpy(mean_over_labelled(labels, 3)).tolist() == [2, 0, 2, 0]
    weight = keras.ops.convert_to_tensor([[0.5], [9], [1], [9]])
    assert _numpy(mean_over_labelled(labels, 3, weight)).tolist() == [1, 0, 2, 0]
    nothing = keras.ops.convert_to_tensor([-1, -1])
    assert _numpy(mean_over_labelled(nothing, 3)).tolist() == [0, 0]
    everything = keras.ops.convert_to_tensor([0, 1, 1])
    assert _numpy(mean_over_labelled(everything, 3)).tolist() == [1, 1, 1]


def _student(seed=1):
    """No batch normalization, whose statistics would depend on all images of a batch."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 3, 2, padding="same", activation="relu", name="intermediate")(inputs)
    x = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="penultimate")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


@pytest.fixture(scope="module")
def problem():
    x, y = small_images(20, CLASSES)
    some = np.where(np.arange(20) % 4 == 1, y, -1)
    return x, y, some, small_teacher()


def _compiled(model, **metrics):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, **metrics)
    return model


def _cross_entropy(logits, labels):
    return -log_softmax(logits.astype("float64"), axis=-1)[np.arange(len(labels)), labels]


def test_the_cross_entropy_is_a_mean_over_labels_and_kd_over_all_images(problem):
    x, y, some, teacher = problem
    student = _student()
    logits, of_teacher = (_numpy(model(x)).astype("float64") for model in (student, teacher))
    logs = _compiled(KD(teacher, student)).train_on_batch(x, some, return_dict=True)
    has_label = some >= 0
    task = _cross_entropy(logits, y)[has_label].mean()
    p = softmax(of_teacher / 4, axis=-1)
    kd = 16 * (p * (np.log(p) - log_softmax(logits / 4, axis=-1))).sum(-1).mean()
    np.testing.assert_allclose([logs["task_loss"], logs["kd"]], [task, kd], rtol=1e-4)
    np.testing.assert_allclose(logs["loss"], 0.1 * task + 0.9 * kd, rtol=1e-4)


def test_without_distillation_losses_images_without_a_label_change_nothing(problem):
    x, _, some, teacher = problem
    has_label = some >= 0
    mixed, alone = (Distiller(teacher, _student()) for _ in range(2))
    _compiled(mixed).train_on_batch(x, some)
    _compiled(alone).train_on_batch(x[has_label], some[has_label])
    before = _student().get_weights()
    for a, b, c in zip(
        mixed.student.get_weights(), alone.student.get_weights(), before, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        assert np.abs(a - c).max() > 1e-4


def test_losses_that_use_labels_take_the_teachers_class(problem):
    x, y, some, teacher = problem
    prototypes = fit_prototypes(teacher, (x, y), **SIZES)
    of_teacher = _numpy(teacher(x)).argmax(-1)
    completed = np.where(some >= 0, some, of_teacher)
    # The teacher is not always right, so that the two differ.
    assert (completed != y).any()

    def logs(labels):
        dkd = {"dkd": (DKDLoss(beta=2.0), 1.0)}
        model = LetKD(teacher, _student(), prototypes, logit_losses=dkd)
        return _compiled(model).train_on_batch(x, labels, return_dict=True)

    partly, wholly, true = logs(some), logs(completed), logs(y)
    for name in ("kl_intermediate", "kl_penultimate", "dkd"):
        np.testing.assert_allclose(partly[name], wholly[name], rtol=1e-5)
    assert abs(partly["kl_intermediate"] - true["kl_intermediate"]) > 1e-4
    assert abs(partly["dkd"] - true["dkd"]) > 1e-4
    assert partly["kl_penultimate"] == pytest.approx(true["kl_penultimate"], rel=1e-5)


def test_weighted_metrics_count_images_with_a_label(problem, caplog):
    x, _, some, teacher = problem
    keras.utils.set_random_seed(0)
    student = _student()
    # Seven images in a batch: one, two and two with a label, and none of the last one.
    has_label = some >= 0
    predicted = _numpy(student(x)).argmax(-1)
    metrics = ["accuracy", keras.metrics.SparseCategoricalCrossentropy(from_logits=True)]
    model = _compiled(KD(teacher, student), weighted_metrics=metrics)
    model.optimizer.learning_rate = 0.0
    with caplog.at_level(logging.INFO, logger="letkd_keras"):
        history = model.fit(x, some, batch_size=7, shuffle=False, verbose=0).history
    assert "15 of 20 images have no label" in caplog.text
    accuracy = (predicted == some)[has_label].mean()
    np.testing.assert_allclose(history["accuracy"][-1], accuracy, rtol=1e-5)
    assert np.isfinite(history["sparse_categorical_crossentropy"]).all()
    # An evaluation is that of any model.
    logs = model.evaluate(x[has_label], some[has_label], return_dict=True, verbose=0)
    np.testing.assert_allclose(logs["accuracy"], accuracy, rtol=1e-5)


@pytest.mark.parametrize("jit", [False, "auto"])
def test_evaluation_leaves_out_images_without_a_label(problem, jit):
    x, _, some, teacher = problem
    has_label = some >= 0
    model = _compiled(KD(teacher, _student()), weighted_metrics=["accuracy"], jit_compile=jit)
    expected = model.evaluate(x[has_label], some[has_label], return_dict=True, verbose=0)
    logs = model.evaluate(x, some, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert logs["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-5)
    # Weights of images count, and those of images without a label do not.
    weights = np.where(has_label, 2.0, 7.0).astype("float32")
    logs = model.evaluate(x, some[:, None], sample_weight=weights, return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(2 * expected["loss"], rel=1e-5)
    model.optimizer.learning_rate = 0.0
    history = model.fit(x, some, validation_data=(x, some), verbose=0).history
    assert history["val_loss"][-1] == pytest.approx(expected["loss"], rel=1e-5)
    assert history["task_loss"][-1] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_batch_without_any_label_has_no_task_loss(problem):
    x, _, some, teacher = problem
    logs = _compiled(KD(teacher, _student())).train_on_batch(
        x, np.full_like(some, -1), return_dict=True
    )
    assert logs["task_loss"] == 0 and np.isfinite(logs["kd"]) and logs["kd"] > 0


def test_weights_of_classes_in_a_data_set_are_refused_where_images_have_no_label(problem):
    tf = pytest.importorskip("tensorflow")
    x, y, some, teacher = problem
    weights = {"class_weight": dict.fromkeys(range(CLASSES), 2.0), "verbose": 0}
    model = _compiled(KD(teacher, _student()))
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(10), **weights)
    with pytest.raises(ValueError, match=r"`class_weight` must not .* label -1, .*=\{0: 2\.0"):
        model.fit(tf.data.Dataset.from_tensor_slices((x, some)).batch(10), **weights)


def test_methods_that_need_labels_and_wrong_labels_are_refused(problem):
    x, y, some, teacher = problem
    with pytest.raises(ValueError, match=r"integers from 0 to 4.*, or -1 for images without a lab"):
        _compiled(KD(teacher, _student())).fit(x, np.where(some < 0, -2, some))
    crd = _compiled(CRD(teacher, _student(), y, negatives=4))
    with pytest.raises(ValueError, match=r"integers from 0 to 4, .* labels from -1 to"):
        crd.fit({"image": x, "row": np.arange(20)}, some)
