import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from letkd_keras.data import ImageData
from letkd_keras.recipes.imagenet import accuracies, imagenet_schedule
from letkd_keras.recipes.measures import add_measures, top_accuracy
from letkd_keras.recipes.networks import Network
from letkd_keras.recipes.tiny_imagenet import halves


def test_top_accuracy_by_hand():
    logits = np.array([[3, 2, 1, 0], [3, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3]])
    labels = np.array([0, 1, 3, 3])
    assert top_accuracy(logits, labels) == 50
    assert top_accuracy(logits, labels, 2) == 75
    assert top_accuracy(logits, labels, 5) == 100


@pytest.mark.parametrize("k", [1, 5])
def test_top_accuracy_is_that_of_keras(k):
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((300, 20)).astype("float32")
    labels = generator.integers(0, 20, 300)
    expected = keras.metrics.sparse_top_k_categorical_accuracy(labels, logits, k)
    assert top_accuracy(logits, labels, k) == pytest.approx(100 * float(np.mean(expected)))


def test_equal_logits_are_no_luck():
    """A network that has learned nothing is at chance, whatever the order of the classes."""
    labels = np.arange(10)
    assert top_accuracy(np.zeros((10, 10)), labels) == 10
    assert top_accuracy(np.zeros((10, 10)), labels, 5) == 50


def test_halves_of_tiny_imagenet():
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    logits = np.eye(2)[[0, 1, 0, 0, 1, 0, 1, 1]]
    # of the first half 3 of 4 are right, of the second 1
    assert halves(logits, labels) == {
        "top-1, both halves": 50,
        "first half": 75,
        "second half": 25,
    }


def test_schedule_of_imagenet():
    schedule = imagenet_schedule()
    assert (schedule.epochs, schedule.learning_rate, schedule.batch_size) == (100, 0.1, 256)
    assert schedule.milestones == (30, 60, 90) and schedule.weight_decay == 1e-4
    assert imagenet_schedule(epochs=10).milestones == (3, 6, 9)


def test_measures_are_in_the_report(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 3), dtype="uint8")
    labels = np.arange(9) % 3
    data = ImageData("made", images, labels, images, labels, (0.0,) * 3, (1.0,) * 3, tuple("abc"))
    for number, place in enumerate(("teacher/teacher", "kd/seed3/student", "kd/seed4/student")):
        # Always the same class: right for a third of the images.
        model = keras.Sequential(
            [keras.Input((2, 2, 3)), keras.layers.Flatten(), keras.layers.Dense(3)]
        )
        model.set_weights([np.zeros((12, 3)), np.eye(3)[number]])
        (tmp_path / place).parent.mkdir(parents=True)
        model.save(tmp_path / f"{place}.keras")
    (tmp_path / "report.md").write_text("# before\n")
    experiment = SimpleNamespace(
        data=data, methods=("kd",), teacher=Network("resnet8"), seeds=(3, 4)
    )
    published = {"top-1": {"teacher": 73.31}, "top-5": {"kd": 89.88}}
    report = add_measures({"pair": "x"}, experiment, tmp_path, accuracies, published)
    third = pytest.approx(100 / 3)
    assert report["measures"]["teacher"] == [{"top-1": third, "top-5": 100}]
    assert report["measures"]["kd"] == [{"top-1": third, "top-5": 100}] * 2
    assert json.loads((tmp_path / "report.json").read_text()) == report
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# before\n")
    assert "| network | top-1 | published | top-5 | published |" in text
    assert "| teacher | 33.33 | 73.31 | 100.00 | - |" in text
    assert "| KD | 33.33 / 33.33 | - | 100.00 / 100.00 | 89.88 |" in text
