import numpy as np
import pytest
from logit_cases import LABELS, MIXED, ONE_HOT, STUDENT, TEACHER, assert_agrees
from scipy.special import softmax

from letkd_keras.losses import DKDLoss, RLDLoss


def _binary_kl(p, q):
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def _naive(alpha, beta, temperature, confidence_temperature):
    def of_sample(teacher, student, label):
        confidence = softmax(teacher / confidence_temperature).max()
        scd = _binary_kl(confidence, softmax(student / confidence_temperature)[label])
        below = teacher < teacher[label]
        mcd = 0.0
        if below.any():
            p, q = (softmax(x[below] / temperature) for x in (teacher, student))
            mcd = (p * np.log(p / q)).sum()
        return alpha * confidence_temperature**2 * scd + beta * temperature**2 * mcd

    return lambda teacher, student: np.array(
        [of_sample(*row) for row in zip(teacher, student, LABELS, strict=True)]
    )


@pytest.mark.parametrize(("alpha", "beta"), [(1, 8), (1, 0), (0, 1)])
@pytest.mark.parametrize("confidence_temperature", [None, 1.0])
def test_it_is_the_sum_of_both_parts(alpha, beta, confidence_temperature):
    assert_agrees(
        RLDLoss(alpha, beta, 4.0, confidence_temperature),
        _naive(alpha, beta, 4.0, confidence_temperature or 4.0),
    )


def test_where_the_teacher_is_right_it_is_dkd():
    right = TEACHER + 20 * ONE_HOT
    value = float(RLDLoss(1.0, 8.0, 4.0)((right, LABELS), STUDENT))
    assert value == pytest.approx(float(DKDLoss(1.0, 8.0, 4.0)((right, LABELS), STUDENT)), rel=1e-4)


def test_classes_the_teacher_ranks_above_the_target_do_not_matter_to_the_second_part():
    loss = RLDLoss(0.0, 1.0, reduction=None)
    value = loss((TEACHER, LABELS), STUDENT)
    of_target = TEACHER[np.arange(len(LABELS)), LABELS][:, None]
    moved = STUDENT + 5 * (of_target <= TEACHER)
    np.testing.assert_allclose(value, loss((TEACHER, LABELS), moved), rtol=1e-4, atol=1e-5)


def test_a_target_that_the_teacher_ranks_last_has_no_second_part():
    worst = TEACHER - 50 * ONE_HOT
    np.testing.assert_array_equal(
        RLDLoss(0.0, 1.0, reduction=None)((worst, LABELS), STUDENT), np.zeros(6)
    )


def test_the_target_of_mixed_labels_is_the_largest():
    values = [float(RLDLoss()((TEACHER, labels), STUDENT)) for labels in (LABELS, MIXED)]
    assert values[0] == values[1]


def test_one_temperature_serves_both_parts_where_none_is_given():
    assert RLDLoss(temperature=3.0).get_config()["confidence_temperature"] == 3.0
    assert RLDLoss(temperature=3.0, confidence_temperature=1.0).confidence_temperature == 1.0
