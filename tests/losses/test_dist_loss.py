import numpy as np
import pytest
from logit_cases import (
    LABELS,
    STUDENT,
    TEACHER,
    WEIGHTS,
    assert_agrees,
    numeric_gradient,
    value_and_gradient,
)
from scipy.special import softmax
from scipy.stats import pearsonr

from letkd_keras.losses import DISTLoss


def _naive(beta, gamma, temperature):
    """By sample: the inter-class part, and the intra-class part of the batch added to each."""

    def by_sample(teacher, student):
        y, s = (softmax(x / temperature, axis=-1) for x in (teacher, student))
        inter = np.array([1 - pearsonr(a, b)[0] for a, b in zip(y, s, strict=True)])
        intra = np.mean([1 - pearsonr(a, b)[0] for a, b in zip(y.T, s.T, strict=True)])
        return temperature**2 * (beta * inter + gamma * intra)

    return by_sample


@pytest.mark.parametrize(
    ("beta", "gamma", "temperature"), [(1, 1, 1), (2, 2, 4), (1, 0, 4), (0, 1, 4)]
)
def test_it_is_the_correlation_over_classes_and_over_the_batch(beta, gamma, temperature):
    assert_agrees(DISTLoss(beta, gamma, temperature), _naive(beta, gamma, temperature))


@pytest.mark.parametrize("name", ["beta", "gamma"])
def test_negative_weights_are_refused(name):
    with pytest.raises(ValueError, match=rf"`{name}` must be .*{name}=-0\.5"):
        DISTLoss(**{name: -0.5})


def test_two_images_of_two_classes_by_hand():
    # Two points correlate with +1 or -1. The samples agree; so do the classes over the batch.
    teacher = np.array([[1.0, 0], [0, 1]])
    assert float(DISTLoss()((teacher, [0, 1]), 2 * teacher)) == pytest.approx(0, abs=1e-5)
    # All orders reversed: 1 - (-1) in both parts.
    assert float(DISTLoss()((teacher, [0, 1]), -teacher)) == pytest.approx(4, rel=1e-5)
    assert float(DISTLoss(3.0, 0.5, 1.0)((teacher, [0, 1]), -teacher)) == pytest.approx(7, rel=1e-5)


def test_equal_logits_give_zero_and_so_do_affine_maps_of_the_probabilities():
    assert float(DISTLoss(temperature=4.0)((TEACHER, LABELS), TEACHER)) == pytest.approx(
        0, abs=1e-3
    )
    # 0.3 p + 0.07: probabilities again, in another range.
    mapped = np.log(0.3 * softmax(TEACHER, axis=-1) + 0.07)
    assert float(DISTLoss()((TEACHER, LABELS), mapped)) == pytest.approx(0, abs=1e-3)


def test_weights_are_inside_the_correlation_over_the_batch():
    """With weighted means; the sum is divided by the size of the batch."""

    def naive(student):
        y, s = (softmax(x.astype("float64") / 4, axis=-1) for x in (TEACHER, student))
        weights = WEIGHTS.astype("float64")
        inter = np.array([1 - pearsonr(a, b)[0] for a, b in zip(y, s, strict=True)])
        covariances = [np.cov(a, b, aweights=weights) for a, b in zip(y.T, s.T, strict=True)]
        intra = np.mean([1 - c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in covariances])
        return 16 * np.mean(weights * (2 * inter + 3 * intra))

    loss = DISTLoss(2.0, 3.0, 4.0)
    value, gradient = value_and_gradient(loss, (TEACHER, LABELS), STUDENT, WEIGHTS)
    assert value == pytest.approx(naive(STUDENT), rel=1e-4)
    expected = numeric_gradient(naive, STUDENT)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    column = loss((TEACHER, LABELS), STUDENT, WEIGHTS[:, None])
    assert float(column) == pytest.approx(value, rel=1e-6)


def test_samples_of_weight_zero_are_absent():
    weights = np.array([1, 1, 0, 1, 0, 0], "float32")
    kept = weights > 0
    loss = DISTLoss(temperature=4.0)
    value, gradient = value_and_gradient(loss, (TEACHER, LABELS), STUDENT, weights)
    alone = loss((TEACHER[kept], LABELS[kept]), STUDENT[kept])
    assert value == pytest.approx(float(alone) * kept.mean(), rel=1e-5)
    np.testing.assert_array_equal(gradient[~kept], 0)


def test_weights_of_one_change_nothing_and_weights_of_zero_give_zero():
    loss = DISTLoss(temperature=4.0)
    plain = float(loss((TEACHER, LABELS), STUDENT))
    assert float(loss((TEACHER, LABELS), STUDENT, np.ones(6))) == pytest.approx(plain, rel=1e-6)
    value, gradient = value_and_gradient(loss, (TEACHER, LABELS), STUDENT, np.zeros(6, "float32"))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_one_image_has_no_correlation_over_the_batch():
    one = slice(0, 1)
    value, gradient = value_and_gradient(
        DISTLoss(0.0, 1.0, 1.0), (TEACHER[one], LABELS[one]), STUDENT[one]
    )
    assert value == pytest.approx(1, rel=1e-6)
    np.testing.assert_array_equal(gradient, 0)
