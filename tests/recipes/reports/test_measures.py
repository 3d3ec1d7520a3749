from types import SimpleNamespace

import keras
import numpy as np
import pytest

from letkd_keras.data import ImageData
from letkd_keras.recipes.experiments.published import Accuracy
from letkd_keras.recipes.imagenet import top1_and_top5
from letkd_keras.recipes.reports import measures
from letkd_keras.recipes.reports.measures import top_accuracy
from letkd_keras.recipes.tiny_imagenet import halves
from letkd_keras.recipes.trainings.training_folder import student_folder
from letkd_keras.recipes.trainings.training_state import finish


def test_top_accuracy_by_hand():
    logits = np.array([[3, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3]])
    labels = np.array([0, 1, 3, 3])
    assert top_accuracy(logits, labels) == 50
    assert top_accuracy(logits, labels, 2) == 75
    assert top_accuracy(logits, labels, 5) == 100


def test_of_equally_likely_classes_the_first_ones_count():
    assert top_accuracy(np.zeros((100, 100)), np.arange(100), 5) == 5
    generator = np.random.default_rng(0)
    logits, labels = generator.integers(0, 4, (500, 100)), generator.integers(0, 100, 500)
    best = [sorted(range(100), key=lambda number: -row[number])[:30] for row in logits]
    expected = np.mean([label in classes for label, classes in zip(labels, best, strict=True)])
    assert top_accuracy(logits, labels, 30) == 100 * expected


@pytest.mark.parametrize("k", [1, 5])
def test_top_accuracy_is_that_of_keras(k):
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((300, 20)).astype("float32")
    labels = generator.integers(0, 20, 300)
    expected = keras.metrics.sparse_top_k_categorical_accuracy(labels, logits, k)
    assert top_accuracy(logits, labels, k) == pytest.approx(100 * float(np.mean(expected)))


def test_a_network_with_equal_logits_is_at_chance():
    labels = np.arange(10)
    assert top_accuracy(np.zeros((10, 10)), labels) == 10
    assert top_accuracy(np.zeros((10, 10)), labels, 5) == 50


def test_halves_of_tiny_imagenet():
    # In the order of the classes: the halves are of each class, not of the data set.
    labels = np.repeat([0, 1], 50)
    right = np.concatenate([np.arange(50) < 25, np.arange(50) < 15])
    logits = np.eye(2)[np.where(right, labels, 1 - labels)]
    # 40 of 50 are right in the first half, none in the second.
    assert halves(logits, labels) == {
        "top-1, both halves": 40,
        "first half": 80,
        "second half": 0,
    }


def test_fewer_images_of_tiny_imagenet_have_no_halves():
    labels = np.array([0, 1])
    assert halves(np.eye(2), labels) == {"top-1": 100}


def test_measures_of_the_networks_of_a_run(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 3), dtype="uint8")
    labels = np.arange(9) % 3
    data = ImageData("made", images, labels, images, labels, (0.0,) * 3, (1.0,) * 3, tuple("abc"))
    networks = []
    for number in range(3):
        # Always the same class, which is right for a third of the images.
        model = keras.Sequential(
            [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
        )
        model.set_weights([np.zeros((12, 3)), np.eye(3)[number]])
        networks.append(model)
    teacher, *students = networks
    accuracies = {"accuracy_last": 33.0, "accuracy_best": 34.0}
    for seed, student in enumerate(students, 3):
        training = student_folder(tmp_path, "kd", seed)
        training.mkdir(parents=True)
        student.save(training / "student.keras")
        finish(training, {**accuracies, "parameters": 39, "parameters_plain": 39, "seconds": 1.0})
    known = {"teacher": Accuracy(73.31), "kd": Accuracy(70.66, top5=89.88)}
    experiment = SimpleNamespace(data=data, published=known.get)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        measured = measures.measure_networks(experiment, tmp_path, teacher, top1_and_top5)
        # The settings of the caller stay.
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    third = pytest.approx(100 / 3)
    assert measured["teacher"] == [{"top-1": third, "top-5": 100}]
    assert measured["kd"] == [{"top-1": third, "top-5": 100}] * 2
    text = measures.markdown(experiment, measured)
    assert "| network | top-1 | published | top-5 | published |" in text
    assert "| teacher | 33.33 | 73.31 | 100.00 | - |" in text
    assert "| KD | 33.33 / 33.33 | 70.66 | 100.00 / 100.00 | 89.88 |" in text
