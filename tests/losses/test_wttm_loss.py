import numpy as np
import pytest
from logit_cases import LABELS, STUDENT, TEACHER, assert_agrees, kl
from scipy.special import log_softmax, softmax

from letkd_keras.losses import KDLoss, WTTMLoss


def _naive(power):
    def by_sample(teacher, student):
        transformed = softmax(teacher, axis=-1) ** power
        power_sum = transformed.sum(-1, keepdims=True)
        q = transformed / power_sum
        divergence = (q * (np.log(q) - log_softmax(student, axis=-1))).sum(-1)
        return power_sum[:, 0] * divergence

    return by_sample


@pytest.mark.parametrize("power", [0.1, 0.2, 0.5, 1.0, 2.0])
def test_it_is_the_weighted_divergence_from_the_transformed_teacher(power):
    assert_agrees(WTTMLoss(power), _naive(power))


def test_two_classes_by_hand():
    # Square roots of 0.64 and 0.36 are 0.8 and 0.6: the power sum is 1.4.
    q = np.array([0.8, 0.6]) / 1.4
    teacher, student = np.log([[0.64, 0.36]]), np.zeros((1, 2))
    expected = 1.4 * (q * np.log(q / 0.5)).sum()
    assert float(WTTMLoss(0.5)((teacher, [0]), student)) == pytest.approx(expected, rel=1e-5)


def test_the_transformed_teacher_is_the_teacher_at_the_temperature_of_one_over_the_power():
    values = WTTMLoss(0.25, reduction=None)((TEACHER, LABELS), STUDENT)
    power_sum = (softmax(TEACHER.astype("float64"), axis=-1) ** 0.25).sum(-1)
    np.testing.assert_allclose(values, power_sum * kl(TEACHER / 4, STUDENT), rtol=1e-4)


def test_a_power_of_one_is_hintons_loss_without_temperature():
    value = float(WTTMLoss(1.0)((TEACHER, LABELS), STUDENT))
    assert value == pytest.approx(float(KDLoss(1.0)((TEACHER, LABELS), STUDENT)), rel=1e-5)


def test_a_student_that_is_the_transformed_teacher_gives_zero():
    shifted = 0.2 * TEACHER + 11
    assert float(WTTMLoss(0.2)((TEACHER, LABELS), shifted)) == pytest.approx(0, abs=1e-4)
    assert float(WTTMLoss(0.2)((TEACHER, LABELS), TEACHER)) > 1


def test_a_power_of_zero_is_refused():
    with pytest.raises(
        ValueError, match=r"`power` must be a finite number greater than 0. Received: power=0"
    ):
        WTTMLoss(power=0)
