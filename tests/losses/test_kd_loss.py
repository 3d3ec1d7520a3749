import keras
import numpy as np
import pytest
from logit_cases import LABELS, STUDENT, TEACHER, assert_agrees, kl, value_and_gradient
from scipy.special import softmax

from letkd_keras.losses import KDLoss


def _standardized(x):
    return (x - x.mean(-1, keepdims=True)) / (1e-7 + x.std(-1, ddof=1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_it_is_the_divergence_of_the_softened_probabilities(temperature):
    assert_agrees(
        KDLoss(temperature),
        lambda t, s: temperature**2 * kl(t / temperature, s / temperature),
    )


def test_with_standardized_logits():
    assert_agrees(
        KDLoss(2.0, standardize_logits=True),
        lambda t, s: 4 * kl(_standardized(t) / 2, _standardized(s) / 2),
    )


def test_two_classes_by_hand():
    teacher, student = np.log([[0.25, 0.75]]), np.log([[0.5, 0.5]])
    expected = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert float(KDLoss(1.0)((teacher, [0]), student)) == pytest.approx(expected, rel=1e-5)


def test_its_gradient_is_the_difference_of_the_probabilities():
    _, gradient = value_and_gradient(KDLoss(4.0), (TEACHER, LABELS), STUDENT)
    expected = 4 * (softmax(STUDENT / 4, axis=-1) - softmax(TEACHER / 4, axis=-1)) / len(LABELS)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_kerass_own_divergence_agrees():
    probabilities = [softmax(x / 4, axis=-1) for x in (TEACHER, STUDENT)]
    expected = 16 * float(keras.losses.KLDivergence()(*probabilities))
    assert float(KDLoss(4.0)((TEACHER, LABELS), STUDENT)) == pytest.approx(expected, rel=1e-4)


def test_standardized_it_does_not_see_the_range_of_the_students_logits():
    loss = KDLoss(2.0, standardize_logits=True)
    value = float(loss((TEACHER, LABELS), STUDENT))
    assert float(loss((TEACHER, LABELS), 7 * STUDENT + 3)) == pytest.approx(value, rel=1e-4)
    assert float(loss((TEACHER, LABELS), 0.1 * TEACHER - 5)) == pytest.approx(0, abs=1e-5)
    plain = KDLoss(2.0)
    assert float(plain((TEACHER, LABELS), 7 * STUDENT)) != pytest.approx(value, rel=0.1)


def test_labels_do_not_matter():
    values = [float(KDLoss()((TEACHER, labels), STUDENT)) for labels in (LABELS, LABELS[::-1])]
    assert values[0] == values[1]


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(
        ValueError, match=r"`temperature` must be a finite number greater than 0. Received.*=0"
    ):
        KDLoss(temperature=0)
