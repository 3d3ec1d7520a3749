import numpy as np
import pytest
from sklearn.linear_model import Ridge

from letkd_keras.export.ridge import NormalEquations, fit_ridge, select_features


def _equations(x, t, batches=1):
    equations = NormalEquations(x.shape[1], t.shape[1])
    for rows in np.array_split(np.arange(len(x)), batches):
        equations.add(x[rows], t[rows])
    return equations


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12))
    return x, x @ rng.normal(size=(12, 3)) + rng.normal(size=(200, 3))


def test_error_is_the_share_of_the_power_left(rows):
    x, t = rows
    kernel = np.random.default_rng(1).normal(size=(12, 3))
    expected = np.sum((t - x @ kernel) ** 2) / np.sum(t**2)
    assert _equations(x, t, batches=7).error(kernel) == pytest.approx(expected, rel=1e-9)


def test_ridge_is_scikit_learns(rows):
    x, t = rows
    equations = _equations(x, t, batches=3)
    kernel, _ = fit_ridge(equations, equations, penalties=(0.01,))
    penalty = 0.01 * np.trace(x.T @ x) / 12
    reference = Ridge(alpha=penalty, fit_intercept=False).fit(x, t).coef_.T
    np.testing.assert_allclose(kernel, reference, rtol=1e-8)


def test_penalty_is_chosen_on_rows_held_out():
    # Fewer rows than features: without a penalty the fit is perfect and worthless.
    rng = np.random.default_rng(2)
    x, kernel = rng.normal(size=(300, 60)), rng.normal(size=(60, 2))
    t = x @ kernel + 5 * rng.normal(size=(300, 2))
    fit, held_out = _equations(x[:50], t[:50]), _equations(x[50:], t[50:])
    penalties = (1e-9, 1e-2, 1.0)
    errors = [fit_ridge(fit, held_out, (penalty,))[1] for penalty in penalties]
    assert errors[0] > errors[2]
    assert fit_ridge(fit, held_out, penalties)[1] == min(errors)


def test_selection_is_greedy_least_squares(rows):
    x, t = rows
    chosen = []
    for _ in range(5):
        left = {
            j: np.linalg.lstsq(x[:, [*chosen, j]], t, rcond=None)[1].sum()
            for j in range(12)
            if j not in chosen
        }
        chosen.append(min(left, key=left.get))
    np.testing.assert_array_equal(select_features(_equations(x, t), 5), chosen)


def test_selection_leaves_copies_and_silent_features_for_last():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(100, 4))
    x = np.concatenate([x, x[:, :2], np.zeros((100, 1))], axis=1)
    t = x[:, :4] @ np.array([[4.0], [3.0], [2.0], [1.0]])
    chosen = select_features(_equations(x, t), 7)
    assert {index % 4 for index in chosen[:4]} == {0, 1, 2, 3}
    assert sorted(chosen) == list(range(7))


def test_of_what_explains_nothing_the_strongest_features_fill_the_count():
    x = np.random.default_rng(4).normal(size=(100, 2))
    x = np.concatenate([x, x[:, :1], 3 * x[:, 1:]], axis=1)
    t = x[:, :2] @ np.array([[2.0], [1.0]])
    chosen = select_features(_equations(x, t), 3)
    assert len(chosen) == 3
    # Of the two copies that are left, that of more power.
    left = set(range(4)) - set(chosen.tolist())
    power = np.sum(x**2, axis=0)
    assert power[chosen[2]] >= power[left.pop()]


def test_the_error_of_an_exact_kernel_is_never_negative():
    rng = np.random.default_rng(5)
    for _ in range(50):
        x, kernel = rng.normal(size=(30, 5)), rng.normal(size=(5, 2))
        assert 0 <= _equations(x, x @ kernel).error(kernel) < 1e-12


def test_targets_of_zeros_have_no_error():
    equations = _equations(np.ones((4, 2)), np.zeros((4, 3)))
    assert equations.error(np.zeros((2, 3))) == 0
