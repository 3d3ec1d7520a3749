import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy
from small_problem import SIZES, small_images

from letkd_keras.prototypes import fit_prototypes
from letkd_keras.prototypes.health import intermediate_health, penultimate_health


def test_penultimate_figures_by_hand():
    # Points at 1 (classes 0, 0, 1), at 10 (class 1); the third center has none.
    points = np.array([[1.0], [1.0], [1.0], [10.0]], "float32")
    centers = np.array([[0.0], [10.0], [1000.0]], "float32")
    health = penultimate_health(centers, points, np.array([0, 0, 1, 1]), num_classes=2)
    assert health == {
        "points": 4,
        "inertia_per_point": 0.75,
        "used_templates": 2,
        "sizes": [0, 1, 3],
        "purity": 0.75,
        "mean_target_entropy": pytest.approx(0, abs=1e-9),
        "template_classes": [0, 1, -1],
    }


def test_every_point_counts_for_purity_whatever_the_blocks(monkeypatch):
    r = np.random.default_rng(0)
    points, labels = r.standard_normal((5000, 3)).astype("float32"), r.integers(7, size=5000)
    nearest = np.linalg.norm(points[:, None] - points[:9], axis=-1).argmin(axis=1)
    largest = [np.bincount(labels[nearest == cluster]).max() for cluster in range(9)]
    monkeypatch.setattr("letkd_keras.prototypes.kmeans._BLOCK_BYTES", 1)
    health = penultimate_health(points[:9], points, labels, num_classes=7)
    assert health["purity"] == sum(largest) / 5000
    assert health["points"] == 5000


def test_entropy_of_targets_halfway_between_two_centers_is_log_2():
    health = penultimate_health(
        np.array([[-1.0], [1.0]], "float32"),
        np.zeros((1, 1), "float32"),
        np.array([0]),
        num_classes=1,
    )
    assert health["mean_target_entropy"] == pytest.approx(np.log(2))


def test_entropy_is_a_mean_over_all_points_of_a_small_data_set():
    r = np.random.default_rng(0)
    points, centers = r.standard_normal((1100, 3)), r.standard_normal((6, 3))
    points, centers = points.astype("float32"), centers.astype("float32")
    squares = ((points[:, None] - centers) ** 2).sum(axis=-1)
    expected = entropy(softmax(-squares, axis=1), axis=1).mean()
    health = penultimate_health(centers, points, np.zeros(1100, int), num_classes=1)
    assert health["mean_target_entropy"] == pytest.approx(expected, rel=1e-5)


def test_entropy_of_many_points_is_that_of_points_spread_over_all():
    # The first half lies on a center, the second between both.
    points = np.repeat(np.array([[0.0], [10.0]], "float32"), 5000, axis=0)
    centers = np.array([[0.0], [20.0]], "float32")
    health = penultimate_health(centers, points, np.zeros(10000, int), num_classes=1)
    assert health["mean_target_entropy"] == pytest.approx(np.log(2) / 2, rel=1e-3)


def test_intermediate_figures_by_hand():
    counts = np.array([[6, 0, 2, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 10]])
    health = intermediate_health(counts, right=15)
    share = np.array([0.75, 0.25])
    expected = (8 * -np.sum(share * np.log(share)) + 2 * np.log(2)) / 20
    assert health == {
        "points": 20,
        "used_templates": 3,
        "sizes": [0, 5, 10],
        "subclass_purity": 17 / 20,
        "mean_target_entropy": pytest.approx(expected),
        "lda_probe_accuracy": 0.75,
    }


def test_the_probe_is_scikit_learns(teacher):
    import keras
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model, (x, y) = teacher(), small_images()
    first = keras.Model(model.inputs, model.get_layer("intermediate").output)
    features, labels = np.asarray(first(x)).reshape(-1, 6), np.repeat(y, 16)
    expected = LinearDiscriminantAnalysis().fit(features, labels).score(features, labels)
    health = fit_prototypes(model, (x, y), **{**SIZES, "components": 4}).manifest["health"]
    assert health["intermediate"]["lda_probe_accuracy"] == pytest.approx(expected, abs=2 / 960)
    assert health["penultimate"]["points"] == health["penultimate"]["all_points"] == 960


def test_dead_channels_cost_components_and_are_reported(teacher, caplog):
    model = teacher()
    kernel = model.layers[1].kernel
    dead = np.array(kernel)
    dead[..., 2:] = 0
    kernel.assign(dead)
    with caplog.at_level("WARNING", logger="letkd_keras"):
        prototypes = fit_prototypes(model, small_images(), **SIZES)
    assert "The LDA has 2 components of 3 wanted" in caplog.text
    assert prototypes.intermediate.lda_scalings.shape == (6, 2)
    assert prototypes.intermediate.centers.shape == (15, 2)
    health = prototypes.manifest["health"]["intermediate"]
    assert (health["lda_components"], health["lda_components_wanted"]) == (2, 3)
