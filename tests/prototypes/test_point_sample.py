import numpy as np
import pytest

from letkd_keras.prototypes.point_sample import PointSample


def _points(size=1000):
    points = np.arange(size, dtype="float32")[:, None] * [1, 10]
    return points, np.arange(size) % 7, np.arange(size)


def _fill(sample, batches):
    points, labels, indices = _points()
    for batch in batches:
        sample.update(points[batch], labels[batch], indices[batch])
    return sample


def test_everything_is_kept_in_order_while_it_fits():
    points, labels, _ = _points()
    sample = _fill(PointSample(1000, 2), np.array_split(np.arange(1000), 9))
    kept, kept_labels = sample.sorted()
    np.testing.assert_array_equal(kept, points)
    np.testing.assert_array_equal(kept_labels, labels)


def test_the_sample_is_the_same_in_any_order_and_from_any_shards():
    expected, expected_labels = _fill(PointSample(100, 2, seed=4), [np.arange(1000)]).sorted()
    assert expected.shape == (100, 2)
    shuffled = np.random.default_rng(0).permutation(1000)
    other, _ = _fill(PointSample(100, 2, seed=4), np.array_split(shuffled, 40)).sorted()
    np.testing.assert_array_equal(other, expected)
    merged = _fill(PointSample(100, 2, seed=4), [np.arange(0, 1000, 2)])
    merged.merge(_fill(PointSample(100, 2, seed=4), [np.arange(1, 1000, 2)]).state())
    assert merged.seen == 1000
    other, other_labels = merged.sorted()
    np.testing.assert_array_equal(other, expected)
    np.testing.assert_array_equal(other_labels, expected_labels)
    assert not np.array_equal(_fill(PointSample(100, 2), [np.arange(1000)]).sorted()[0], expected)


def test_every_point_has_the_same_chance():
    counts = np.zeros(1000)
    for seed in range(400):
        kept, _ = _fill(PointSample(100, 2, seed=seed), np.array_split(np.arange(1000), 3)).sorted()
        counts[kept[:, 0].astype(int)] += 1
    # 40 +- 6 expected each; thirds of the data set and the extremes agree with chance.
    thirds = [part.mean() for part in np.array_split(counts, 3)]
    np.testing.assert_allclose(thirds, 40, atol=1.5)
    assert counts.min() > 12 and counts.max() < 75


def test_sorted_by_class():
    points, labels, _ = _points()
    kept, kept_labels = _fill(PointSample(1000, 2), [np.arange(1000)]).sorted(by_class=True)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(kept_labels, labels[order])
    np.testing.assert_array_equal(kept, points[order])


def test_within_counts_what_is_held_beside_the_points():
    assert PointSample.within(1000, 5).capacity == 25
    assert PointSample.within(1, 5).capacity == 1


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="capacity=0"):
        PointSample(0, 2)
