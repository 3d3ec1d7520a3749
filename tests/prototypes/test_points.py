import numpy as np
import pytest

from letkd_keras.prototypes.points import PointCache, PointSample, _keys, points_of_batch


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


def test_keys_are_those_of_splitmix64():
    """The first outputs of the generator's published program for the state 0."""
    start = int(np.random.default_rng(5).integers(2**64, dtype="uint64"))
    # The index is added to a number that the seed chooses; here the sums are 1, 2 and 3.
    indices = np.array([(number - start) % 2**64 for number in (1, 2, 3)], "uint64")
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(key) for key in _keys(5, indices)] == expected


def test_the_sample_is_the_same_in_any_order():
    expected, expected_labels = _fill(PointSample(100, 2, seed=4), [np.arange(1000)]).sorted()
    assert expected.shape == (100, 2)
    shuffled = np.random.default_rng(0).permutation(1000)
    sample = _fill(PointSample(100, 2, seed=4), np.array_split(shuffled, 40))
    other, other_labels = sample.sorted()
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


def test_labels_indices_and_keys_need_memory_too():
    assert PointSample.fitting(1000, 5) == 25
    assert PointSample.fitting(1, 5) == 1


def test_more_points_than_memory_are_refused():
    with pytest.raises(ValueError, match=r"There is no memory for the .* bytes of .* smaller"):
        PointSample(2**50, 1000)


# === Batches ===


def test_points_of_a_batch_are_numbered_through_all_images():
    points, _, _ = _points(6)
    batch = points_of_batch(5, np.array([2, 0]), points)
    np.testing.assert_array_equal(batch["labels"], [2, 2, 2, 0, 0, 0])
    np.testing.assert_array_equal(batch["indices"], [15, 16, 17, 18, 19, 20])
    np.testing.assert_array_equal(batch["points"], points)
    assert [len(a) for a in points_of_batch(5, np.zeros(0, int), points[:0]).values()] == [0] * 3


@pytest.mark.parametrize("keys_at_a_time", [2**20, 64])
def test_batches_of_a_sample_of_known_size_hold_what_it_keeps(keys_at_a_time, monkeypatch):
    monkeypatch.setattr("letkd_keras.prototypes.points._KEYS", keys_at_a_time)
    points, labels, _ = _points()
    expected = _fill(PointSample(100, 2, seed=4), [np.arange(1000)]).sorted()
    sample, sizes = PointSample(100, 2, seed=4, total=1000), []
    for rows in np.array_split(np.arange(1000), 7):
        batch = sample.of_batch(rows[0], labels[rows], points[rows])
        sizes.append(len(batch["points"]))
        sample.update(**batch)
    assert sum(sizes) == 100
    for one, other in zip(sample.sorted(), expected, strict=True):
        np.testing.assert_array_equal(one, other)


# === Cache ===


def _random_points(size=200):
    points = np.random.default_rng(0).standard_normal((size, 3)).astype("float32")
    return points, np.random.default_rng(1).integers(4, size=size)


def _fill_cache(cache, points, labels, batch=7):
    for start in range(0, len(points), batch):
        rows = np.arange(start, min(start + batch, len(points)))
        cache.update(points[rows], labels[rows], rows)
    return cache


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_points_are_kept_in_order(tmp_path, dtype):
    points, labels = _random_points()
    kept, kept_labels = _fill_cache(PointCache(tmp_path, 200, 3, dtype), points, labels).sorted()
    assert kept.dtype == dtype
    np.testing.assert_array_equal(kept, points.astype(dtype))
    np.testing.assert_array_equal(kept_labels, labels)
    assert (tmp_path / "points.npy").stat().st_size == 128 + 200 * 3 * kept.itemsize


def test_points_are_sorted_by_class_as_they_come(tmp_path):
    points, labels = _random_points()
    cache = _fill_cache(PointCache(tmp_path, np.bincount(labels), 3), points, labels)
    kept, kept_labels = cache.sorted(by_class=True)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(kept, points[order])
    np.testing.assert_array_equal(kept_labels, labels[order])
