from types import SimpleNamespace

import numpy as np
import pytest

from letkd_keras.prototypes.passes import ProjectedGatherer, ScoreGatherer, sample_size
from letkd_keras.prototypes.points import PointSample


@pytest.mark.parametrize(
    ("channels", "points"),
    # Bytes of a vector: 4 for each channel and 20 beside.
    [(64, 256 * 4096), (32, 2**28 // 148), (512, 256 * 4096), (2048, 256 * 4096)],
)
def test_a_sample_has_256_points_for_each_center_unless_memory_says_otherwise(channels, points):
    assert sample_size(None, channels, 4096) == points
    assert sample_size(2**28, channels, 4096) == 2**28 // (4 * channels + 20)
    assert sample_size(2**40, channels, 4096) == 2**40 // (4 * channels + 20)
    assert sample_size(1, channels, 4096) == 1


class FirstChannel:
    """A projection that changes nothing and classifies by the sign of the first channel."""

    def __call__(self, points):
        return points

    def classify(self, points):
        return (points[:, 0] > 0).astype(int)


def test_a_class_without_a_point_in_the_sample_has_the_size_0():
    features = SimpleNamespace(num_classes=3)
    gatherer = ProjectedGatherer(features, FirstChannel(), PointSample(10, 2))
    points = np.array([[1, 0], [2, 0]], "float32")
    gatherer.add(gatherer.summarize(0, np.array([1, 0]), {"intermediate": points}))
    np.testing.assert_array_equal(gatherer.result()["sizes"], [1, 1, 0])


def test_points_that_the_lda_classifies_right_are_counted():
    features = SimpleNamespace(num_classes=2)
    gatherer = ScoreGatherer(features, FirstChannel(), np.array([[-1, 0], [1, 0]], "float32"))
    points = np.array([[-1, 0], [2, 0], [3, 0], [4, 0]], "float32")
    # Two locations of each image: of the class 0 one is right, of the class 1 both.
    gatherer.add(gatherer.summarize(0, np.array([0, 1]), {"intermediate": points}))
    assert gatherer.result()["right"] == 3
    gatherer.add(gatherer.summarize_points(points[:2], np.array([0, 0])))
    assert gatherer.result()["right"] == 4
    np.testing.assert_array_equal(gatherer.result()["counts"], [[2, 2], [0, 2]])
