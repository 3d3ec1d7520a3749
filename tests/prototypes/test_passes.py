from types import SimpleNamespace

import numpy as np
import pytest

from letkd_keras.prototypes.passes import ScoreGatherer, ScorePart, sample_size


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


def test_points_that_the_lda_classifies_right_are_counted():
    features = SimpleNamespace(locations=lambda level: 2, num_classes=2)
    projection = SimpleNamespace(classify=lambda points: (points[:, 0] > 0).astype(int))
    gatherer = ScoreGatherer(features, projection, np.array([[-1.0, 0], [1, 0]], "float32"))
    points = np.array([[-1, 0], [2, 0], [3, 0], [-4, 0]], "float32")
    gatherer.add(points, np.array([0, 1, 0, 1]))
    assert gatherer.result()["right"] == 2
    gatherer.add(points[:2], np.array([0, 1]))
    assert gatherer.result()["right"] == 4


def test_points_of_a_part_that_the_lda_classifies_right_are_counted():
    class Projection:
        def __call__(self, points):
            return points

        def classify(self, points):
            return (points[:, 0] > 0).astype(int)

    part = ScorePart(2, Projection(), lambda points, labels: [(labels, labels)])
    points = np.array([[-1, 0], [2, 0], [3, 0], [4, 0]], "float32")
    # Two locations of each image: of the class 0 one is right, of the class 1 both.
    part.update(0, np.array([0, 1]), {"intermediate": points})
    assert part.state()["right"] == 3
    part.update(2, np.array([1]), {"intermediate": points[:2]})
    assert part.state()["right"] == 4
    np.testing.assert_array_equal(part.state()["own"], [0, 0, 1, 1, 1, 1])
