import numpy as np
import pytest

from letkd_keras.prototypes.point_cache import PointCache


def _points(size=200):
    points = np.random.default_rng(0).standard_normal((size, 3)).astype("float32")
    return points, np.random.default_rng(1).integers(4, size=size)


def _fill(cache, points, labels, batch=7):
    for start in range(0, len(points), batch):
        rows = np.arange(start, min(start + batch, len(points)))
        cache.update(points[rows], labels[rows], rows)
    return cache


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_points_are_kept_in_order(tmp_path, dtype):
    points, labels = _points()
    kept, kept_labels = _fill(PointCache(tmp_path, 200, 3, dtype), points, labels).sorted()
    assert kept.dtype == dtype
    np.testing.assert_array_equal(kept, points.astype(dtype))
    np.testing.assert_array_equal(kept_labels, labels)
    assert (tmp_path / "points.npy").stat().st_size == 128 + 200 * 3 * kept.itemsize


def test_points_are_sorted_by_class_as_they_come(tmp_path):
    points, labels = _points()
    cache = _fill(PointCache(tmp_path, np.bincount(labels), 3), points, labels)
    kept, kept_labels = cache.sorted(by_class=True)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(kept, points[order])
    np.testing.assert_array_equal(kept_labels, labels[order])


def test_more_or_fewer_points_than_counted_are_refused(tmp_path):
    points, labels = _points()
    with pytest.raises(ValueError, match=r"same images at each pass.*199 feature"):
        _fill(PointCache(tmp_path, 199, 3), points, labels)
    with pytest.raises(ValueError, match=r"Received: 200 feature vectors, 201 before"):
        _fill(PointCache(tmp_path, 201, 3), points, labels).sorted()
    with pytest.raises(ValueError, match="by_class=True"):
        _fill(PointCache(tmp_path, 200, 3), points, labels).sorted(by_class=True)
