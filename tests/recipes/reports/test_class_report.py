"""Accuracy by class, confusion matrix and mistakes, with networks that are known exactly."""

import csv
from functools import partialmethod

import keras
import numpy as np
import pytest
from PIL import Image

from letkd_keras.data import ImageData
from letkd_keras.recipes.reports import class_report

# The first pixel of an image says what the student answers, the second one what the teacher does.
LABELS = np.array([0, 0, 0, 1, 1, 2])
STUDENT = np.array([0, 1, 2, 1, 0, 2])
TEACHER = np.array([0, 0, 2, 1, 1, 0])
# Names that are no mathematics, and no cells of a table.
NAMES = ("cat", "a|\nb", "$x_$")


@pytest.fixture(scope="module")
def data():
    images = np.zeros((6, 8, 8, 3), "uint8")
    images[:, 0, 0, 0] = 100 * STUDENT
    images[:, 0, 1, 0] = 100 * TEACHER
    # More light for a more confident student.
    images[:, 4:, :, 1] = np.array([0, 10, 50, 0, 30, 0])[:, None, None]
    return ImageData(
        "known", images, LABELS, images, LABELS, (0.5,) * 3, (0.25,) * 3, NAMES, "known"
    )


def _network(data, column):
    """Logits that are highest for the class that a pixel says, more so for lighter images."""
    inputs = keras.Input((8, 8, 3))
    pixels = keras.layers.Rescaling([255 * std for std in data.std], [127.5] * 3)(inputs)
    answer = keras.layers.Lambda(
        lambda x: (
            (1 + x[:, 4, 0, 1:2])
            * -keras.ops.abs(x[:, 0, column, :1] / 100 - keras.ops.arange(3.0))
        ),
        output_shape=(3,),
    )(pixels)
    return keras.Model(inputs, answer)


@pytest.fixture(scope="module")
def networks(data):
    return _network(data, 0), _network(data, 1)


@pytest.fixture(scope="module")
def predictions(networks, data):
    return class_report.predict(*networks, data)


def test_classes_of_both_networks(predictions):
    np.testing.assert_array_equal(predictions.labels, LABELS)
    np.testing.assert_array_equal(predictions.student, STUDENT)
    np.testing.assert_array_equal(predictions.teacher, TEACHER)


def test_accuracy_by_class_by_hand(predictions):
    rows = class_report.by_class(predictions, (*NAMES, "absent"))
    assert [row["images"] for row in rows] == [3, 2, 1, 0]
    student = [row["student"] for row in rows]
    assert student == [pytest.approx(100 / 3), 50, 100, None]
    assert [row["teacher"] for row in rows] == [pytest.approx(200 / 3), 100, 0, None]


def test_confusion_by_hand(networks, data, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(
        class_report, "save_figure", lambda figure, *_, **__: figures.append(figure)
    )
    class_report.write(*networks, data, tmp_path, "student of a test")
    axes = figures[0].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("student's class", "true class")
    # Of the images of each true class, a row.
    expected = 100 * np.array([[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 2, 0], [0, 0, 1]])
    np.testing.assert_allclose(axes.images[0].get_array(), expected)


def test_the_worst_mistakes_come_first_with_their_pixels(predictions, networks, data):
    mistakes = predictions.mistakes
    # Images 2, 4 and 1 are wrong, in this order of the student's confidence.
    rows = [2, 4, 1]
    assert [mistake.student for mistake in mistakes] == [STUDENT[row] for row in rows]
    assert [mistake.teacher for mistake in mistakes] == [TEACHER[row] for row in rows]
    for mistake, row in zip(mistakes, rows, strict=True):
        np.testing.assert_array_equal(mistake.image, data.x_test[row])
    assert mistakes[0].confidence > mistakes[1].confidence > mistakes[2].confidence > 1 / 3
    (worst,) = class_report.predict(*networks, data, mistakes=1).mistakes
    np.testing.assert_array_equal(worst.image, mistakes[0].image)


def test_batches_are_merged(networks, data, predictions, monkeypatch):
    small = partialmethod(ImageData.evaluation_batches, 4)
    monkeypatch.setattr(ImageData, "evaluation_batches", small)
    assert len(data.evaluation_batches()) == 2
    again = class_report.predict(*networks, data)
    np.testing.assert_array_equal(again.student, predictions.student)
    pairs = zip(again.mistakes, predictions.mistakes, strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one.image, other.image)


def test_files_and_section(networks, data, tmp_path):
    rows, text = class_report.write(*networks, data, tmp_path, "student $s_$ of a test")
    with (tmp_path / "classes.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["class"] for row in written] == list(NAMES)
    assert float(written[1]["teacher"]) == rows[1]["teacher"] == 100
    assert r"| a\| b | 2 | 50.0 | 100.0 |" in text
    assert "(confusion.png)" in text and "(mistakes.png)" in text
    for name in ("confusion.png", "mistakes.png"):
        assert Image.open(tmp_path / name).width > 400
    # A student without mistakes has no picture of them.
    right = ImageData(
        *("right", data.x_test, STUDENT, data.x_test, STUDENT, data.mean, data.std, NAMES)
    )
    _, text = class_report.write(*networks, right, tmp_path, "student of a test")
    assert "mistakes.png" not in text and not (tmp_path / "mistakes.png").exists()


def test_of_many_classes_the_least_known_are_listed():
    rows = [
        {
            "class": f"c{n}",
            "images": n % 3,
            "student": None if n % 3 == 0 else 100 - n,
            "teacher": 1,
        }
        for n in range(100)
    ]
    for row in rows:
        row["teacher"] = row["student"]
    text = class_report.markdown(rows, "x", False)
    listed = [line for line in text.splitlines() if line.startswith("| c") and "class" not in line]
    assert len(listed) == 30 and listed[0].startswith("| c98 | 2 | 2.0 |")
    assert "The 30 classes that the student knows least" in text
