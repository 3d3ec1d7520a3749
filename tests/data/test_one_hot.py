import numpy as np
import pytest

from letkd_keras.data.one_hot import classes_of

CLASSES = np.array([2, 0, 1, 2])
ONE_HOT = np.eye(3)[CLASSES]


@pytest.mark.parametrize(
    "labels",
    [ONE_HOT, ONE_HOT.astype(bool), ONE_HOT.astype("int64"), (0.7 * ONE_HOT + 0.1).astype("half")],
)
def test_one_hot_and_mixed_labels_become_classes(labels):
    np.testing.assert_array_equal(classes_of(labels, 3), CLASSES)


def test_a_column_of_classes_becomes_classes():
    np.testing.assert_array_equal(classes_of(CLASSES[:, None], 3), CLASSES)
    # Of a single class it is one-hot.
    np.testing.assert_array_equal(classes_of(np.ones((4, 1), int), 1), np.zeros(4))


@pytest.mark.parametrize(
    "labels",
    [CLASSES, np.eye(4)[CLASSES], ONE_HOT + ONE_HOT[::-1], ONE_HOT.astype(str)],
)
def test_other_labels_are_left_as_they_are(labels):
    assert classes_of(labels, 3) is labels
