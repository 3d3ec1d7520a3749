import faiss
import numpy as np
import pytest
from in_a_process import in_a_process

from letkd_keras.prototypes.kmeans import _RELATIVES, _split_largest, kmeans, nearest_centers


def _blobs(clusters, size, channels=5, spread=0.05, seed=0):
    r = np.random.default_rng(seed)
    centers = r.standard_normal((clusters, channels)) * 4
    points = centers[:, None] + spread * r.standard_normal((clusters, size, channels))
    return centers, r.permutation(points.reshape(-1, channels)).astype("float32")


def _inertia(points, centers):
    return float(nearest_centers(points, centers)[0].sum(dtype="float64"))


def test_one_cluster_is_the_mean():
    _, points = _blobs(3, 50)
    np.testing.assert_allclose(kmeans(points, 1)[0], points.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_centers_are_the_means_of_their_points_after_convergence():
    _, points = _blobs(4, 60)
    centers = kmeans(points, 4, iterations=50)
    _, nearest = nearest_centers(points, centers)
    means = np.stack([points[nearest == c].mean(axis=0) for c in range(4)])
    np.testing.assert_allclose(centers, means, rtol=1e-5, atol=1e-5)


def test_inertia_falls_and_is_as_good_as_bare_faiss():
    points = np.random.default_rng(1).standard_normal((4000, 8)).astype("float32")
    seen = []
    centers = kmeans(points, 64, on_iteration=lambda _, own: seen.append(_inertia(points, own)))
    assert len(seen) == 20  # as the method says
    assert np.all(np.diff(seen) <= 1e-3 * seen[0])
    bare = faiss.Kmeans(8, 64, niter=20, seed=1, max_points_per_centroid=10**9)
    bare.train(points)
    assert _inertia(points, centers) == pytest.approx(_inertia(points, bare.centroids), rel=0.02)


def test_the_seed_decides_and_blocks_do_not(monkeypatch):
    _, points = _blobs(6, 3000)
    first = kmeans(points, 20, seed=3)
    np.testing.assert_array_equal(first, kmeans(points, 20, seed=3))
    assert not np.array_equal(first, kmeans(points, 20, seed=4))
    monkeypatch.setattr("letkd_keras.prototypes.kmeans._BLOCK_BYTES", 1)
    np.testing.assert_allclose(first, kmeans(points, 20, seed=3), rtol=1e-5, atol=1e-6)


def test_a_memory_mapped_file_gives_the_same_bytes(tmp_path):
    _, points = _blobs(6, 3000)
    np.save(tmp_path / "points.npy", points)
    mapped = np.load(tmp_path / "points.npy", mmap_mode="r")
    np.testing.assert_array_equal(kmeans(points, 20), kmeans(mapped, 20))


def test_duplicates_fill_no_more_clusters_than_there_are_and_nothing_fails():
    points = np.repeat(np.array([[0, 0], [5, 1]], "float32"), 20, axis=0)
    centers = kmeans(points, 8)
    assert centers.shape == (8, 2)
    assert np.isfinite(centers).all()
    assert _inertia(points, centers) < 1e-3


def test_an_empty_cluster_takes_half_of_the_largest():
    centers = np.array([[1, 1], [8, 8], [2, 2]], "float32")
    _split_largest(centers, np.array([3, 0, 9]))
    np.testing.assert_array_equal(centers[0], [1, 1])
    np.testing.assert_allclose(centers[1] + centers[2], [4, 4])
    assert 0 < np.abs(centers[1] - centers[2]).max() < 0.01


def test_the_halves_of_a_cluster_part_in_opposite_directions_of_neighboring_channels():
    centers = np.array([[0, 0, 0, 0, 0], [1024, 1024, 1024, 1024, 1024]], "float32")
    _split_largest(centers, np.array([0, 5]))
    np.testing.assert_array_equal(centers[0], [1023, 1025, 1023, 1025, 1023])
    np.testing.assert_array_equal(centers[1], [1025, 1023, 1025, 1023, 1025])


def test_each_half_is_split_by_what_it_then_holds():
    # 4 points become 2 and 2; then 3 are the most.
    centers = np.array([[0, 0], [0, 0], [100, 100], [7, 7]], "float32")
    _split_largest(centers, np.array([0, 0, 4, 3]))
    np.testing.assert_array_equal(np.round(centers[:, 0]), [100, 7, 100, 7])


def test_as_many_clusters_as_points_are_the_points():
    _, points = _blobs(2, 5)
    centers = kmeans(points, len(points))
    np.testing.assert_allclose(centers, points, rtol=1e-6)


@pytest.mark.parametrize("k", [0, 11])
def test_more_clusters_than_points_or_none_are_refused(k):
    with pytest.raises(ValueError, match=r"k=.* for 10 points"):
        kmeans(np.zeros((10, 2), "float32"), k)


def test_non_finite_points_are_refused():
    points = np.zeros((10, 2), "float32")
    points[3, 1] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        kmeans(points, 2)


# === The BLAS of faiss ===


def _detected(**environment):
    done = in_a_process("blas_of_faiss.py", **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(line.split() for line in done.stdout.splitlines())


def test_faiss_takes_the_processor_for_what_numpy_does(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    detected = _detected()
    assert detected["environment"] == "None"
    if not {"faiss", "other"} <= detected.keys():
        pytest.skip("faiss and NumPy do not bring an OpenBLAS each")
    assert detected["faiss"] == _RELATIVES.get(detected["other"], detected["other"])


def test_what_the_environment_says_is_respected():
    detected = _detected(OPENBLAS_CORETYPE="Nehalem")
    assert detected["environment"] == "Nehalem"
    assert detected.get("faiss", "Nehalem") == "Nehalem"
