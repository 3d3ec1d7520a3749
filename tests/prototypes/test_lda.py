import numpy as np
import pytest
from reference_lda import ReferenceLDA as Reference

from letkd_keras.prototypes.lda import LinearDiscriminantAnalysis


def _points(classes=6, size=400, channels=12, offset=0.0, seed=0):
    r = np.random.default_rng(seed)
    labels = r.integers(classes, size=size)
    mix = r.standard_normal((channels, channels))
    features = (
        r.standard_normal((classes, channels))[labels] + r.standard_normal((size, channels)) @ mix
    )
    return features * r.uniform(0.1, 10, channels) + offset, labels


def _fit(features, labels, classes=6, batch=37):
    lda = LinearDiscriminantAnalysis(classes, features.shape[1])
    for start in range(0, len(features), batch):
        lda.update(features[start : start + batch], labels[start : start + batch])
    return lda


def _assert_equal_up_to_sign(actual, expected, rtol):
    assert actual.shape == expected.shape
    signs = np.sign(np.sum(actual * expected, axis=0))
    np.testing.assert_allclose(actual * signs, expected, rtol=rtol, atol=rtol * abs(expected).max())


@pytest.mark.parametrize(("offset", "rtol"), [(0.0, 1e-9), (1e4, 1e-7), (1e6, 1e-5)])
def test_is_scikit_learns(offset, rtol):
    features, labels = _points(offset=offset)
    # scikit-learn itself sees the offset; the reference is taken without, the mean moved.
    reference = Reference(solver="svd").fit(features - offset, labels)
    mean, scalings = _fit(features, labels).solve(5)
    np.testing.assert_allclose(mean, reference.xbar_ + offset, rtol=1e-12, atol=1e-12)
    _assert_equal_up_to_sign(scalings, reference.scalings_, rtol)


def test_offsets_in_float32_features_cost_nothing_beyond_their_rounding():
    features, labels = _points(offset=3000.0)
    features = features.astype("float32")
    reference = Reference(solver="svd").fit(features.astype("float64") - 3000.0, labels)
    _, scalings = _fit(features, labels).solve(5)
    _assert_equal_up_to_sign(scalings, reference.scalings_, 1e-8)


def test_fewer_components_are_the_first_columns():
    features, labels = _points()
    lda = _fit(features, labels)
    np.testing.assert_array_equal(lda.solve(2)[1], lda.solve(5)[1][:, :2])


def test_merged_accumulators_of_small_blocks_are_one_pass(monkeypatch):
    features, labels = _points(offset=50.0)
    whole = _fit(features, labels)
    monkeypatch.setattr("letkd_keras.prototypes.lda._BLOCK_BYTES", 8 * 12 * 5)
    parts = [_fit(features[i::3], labels[i::3]) for i in range(3)]
    merged = LinearDiscriminantAnalysis(6, 12)
    for part in parts:
        merged.merge(part.state())
    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-10, atol=1e-7)
    _assert_equal_up_to_sign(merged.solve(5)[1], whole.solve(5)[1], 1e-9)


def test_a_class_without_points_is_left_out():
    features, labels = _points()
    kept = labels != 2
    reference = Reference(solver="svd").fit(features[kept], labels[kept])
    mean, scalings = _fit(features[kept], labels[kept]).solve(5)
    np.testing.assert_allclose(mean, reference.xbar_, rtol=1e-10)
    _assert_equal_up_to_sign(scalings, reference.scalings_, 1e-9)


@pytest.mark.parametrize("difference", [0, 1e-5])
def test_constant_and_copied_channels_are_left_out_as_scikit_learn_does(difference):
    features, labels = _points()
    features[:, 3] = 7.0
    noise = np.random.default_rng(1).standard_normal(len(features))
    features[:, 5] = features[:, 4] * (1 + difference * noise)
    reference = Reference(solver="svd").fit(features, labels)
    _, scalings = _fit(features, labels).solve(5)
    projected = features @ scalings
    expected = features @ reference.scalings_
    _assert_equal_up_to_sign(
        projected - projected.mean(axis=0), expected - expected.mean(axis=0), 1e-8
    )


def test_fewer_points_than_channels():
    features, labels = _points(size=20, channels=40)
    reference = Reference(solver="svd").fit(features, labels)
    _, scalings = _fit(features, labels, batch=7).solve(5)
    _assert_equal_up_to_sign(features @ scalings, features @ reference.scalings_, 1e-7)


def test_classes_that_hardly_differ_are_still_separated():
    r = np.random.default_rng(2)
    deviations, labels = r.standard_normal((40, 5)), np.repeat(np.arange(6), 80)
    features = np.tile(np.concatenate([deviations, -deviations]), (6, 1))
    features += 1e-6 * r.standard_normal((6, 5))[labels]
    reference = Reference(solver="svd").fit(features, labels)
    _, scalings = _fit(features, labels, batch=80).solve(5)
    _assert_equal_up_to_sign(scalings, reference.scalings_, 1e-6)


def test_what_cannot_be_solved_says_so():
    features, labels = _points()
    with pytest.raises(ValueError, match="at least two classes"):
        _fit(features, np.zeros_like(labels)).solve(5)
    with pytest.raises(ValueError, match="no direction"):
        _fit(np.ones_like(features), labels).solve(5)
    features[7, 2] = np.inf
    with pytest.raises(ValueError, match="finite"), np.errstate(invalid="ignore"):
        _fit(features, labels).solve(5)
