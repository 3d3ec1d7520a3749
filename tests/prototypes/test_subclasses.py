import itertools

import numpy as np
import pytest

from letkd_keras.prototypes.subclasses import NearestSubclasses, fit_subclasses, normalized_scores


@pytest.fixture
def golden(golden_dir):
    with np.load(golden_dir / "method_subclass_scores.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_scores_are_the_authors(golden, dtype):
    nearest_subclasses = NearestSubclasses(golden["centers"].astype(dtype), num_classes=5)
    own, nearest = nearest_subclasses(golden["features"], golden["labels"])
    np.testing.assert_array_equal(own, golden["own_class_subclass"])
    counts = np.zeros(golden["scores"].shape, int)
    np.add.at(counts, (own, nearest), 1)
    assert counts.sum() == 20000
    # Shares of counts: they are equal, or at least one point counts elsewhere.
    np.testing.assert_allclose(normalized_scores(counts), golden["scores"], rtol=1e-12, atol=0)


def test_a_subclass_without_points_is_confused_with_itself():
    scores = normalized_scores(np.array([[2, 1, 0], [0, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(scores, [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 1]])


def test_subclasses_are_found_class_by_class():
    r = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [100, 250, 70, 180])
    points = r.standard_normal((600, 2)) + 20 * labels[:, None]
    centers = fit_subclasses(
        points.astype("float32"), [100, 250, 70, 180], 3, iterations=100, seed=5
    )
    for label, own in enumerate(centers.reshape(4, 3, 2)):
        members = points[labels == label]
        nearest = np.linalg.norm(members[:, None] - own, axis=-1).argmin(axis=1)
        means = [members[nearest == subclass].mean(axis=0) for subclass in range(3)]
        np.testing.assert_allclose(own, means, rtol=1e-4, atol=1e-4)


def test_a_class_has_the_same_subclasses_whatever_the_others_are():
    points = np.random.default_rng(0).standard_normal((90, 2)).astype("float32")
    both = fit_subclasses(points, [50, 40], 3)
    changed = points.copy()
    changed[:50] *= 2
    np.testing.assert_array_equal(fit_subclasses(changed, [50, 40], 3)[3:], both[3:])


def test_each_class_has_its_own_stream_of_the_seed():
    points = np.random.default_rng(0).standard_normal((40, 2)).astype("float32")
    both = np.vstack([points, points])
    centers = [fit_subclasses(both, [40, 40], 3, 1, seed).reshape(2, 3, 2) for seed in (0, 1)]
    for one, other in itertools.combinations(np.concatenate(centers), 2):
        assert not np.allclose(one, other)


def test_small_classes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"class 1 \(2\), 2 \(0\)"):
        fit_subclasses(np.zeros((12, 2), "float32"), [5, 2, 0, 5], 3)
