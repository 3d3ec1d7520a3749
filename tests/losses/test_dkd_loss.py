import numpy as np
import pytest
from logit_cases import CLASSES, LABELS, MIXED, ONE_HOT, STUDENT, TEACHER, assert_agrees
from scipy.special import softmax

from letkd_keras.losses import DKDLoss, KDLoss


def _parts(teacher, student, label, temperature):
    """TCKD and NCKD of a sample, in probabilities as the paper writes them."""
    p, q = (softmax(x / temperature) for x in (teacher, student))
    others = np.arange(CLASSES) != label
    tckd = p[label] * np.log(p[label] / q[label])
    tckd += (1 - p[label]) * np.log((1 - p[label]) / (1 - q[label]))
    p_others, q_others = p[others] / p[others].sum(), q[others] / q[others].sum()
    return np.array([tckd, (p_others * np.log(p_others / q_others)).sum()])


def _naive(weights, temperature):
    def by_sample(teacher, student):
        rows = zip(teacher, student, LABELS, strict=True)
        return temperature**2 * np.array([_parts(*row, temperature) @ weights for row in rows])

    return by_sample


@pytest.mark.parametrize(("alpha", "beta"), [(1, 8), (0.5, 2), (1, 0), (0, 1)])
def test_it_is_the_papers_sum_of_both_parts(alpha, beta):
    assert_agrees(DKDLoss(alpha, beta, 4.0), _naive((alpha, beta), 4.0))


def test_with_standardized_logits():
    def standardized(x):
        return (x - x.mean(-1, keepdims=True)) / (1e-7 + x.std(-1, ddof=1, keepdims=True))

    assert_agrees(
        DKDLoss(1, 8, 2.0, standardize_logits=True),
        lambda t, s: _naive((1, 8), 2.0)(standardized(t), standardized(s)),
    )


def test_with_the_teachers_doubt_as_beta_it_is_hintons_loss():
    for i, label in enumerate(LABELS):
        pair = (TEACHER[i : i + 1], LABELS[i : i + 1])
        doubt = 1 - softmax(TEACHER[i].astype("float64") / 4)[label]
        decoupled = DKDLoss(1.0, doubt, 4.0)(pair, STUDENT[i : i + 1])
        hinton = KDLoss(4.0)(pair, STUDENT[i : i + 1])
        assert float(decoupled) == pytest.approx(float(hinton), rel=1e-4)


def test_the_non_target_part_does_not_see_the_target_logit():
    loss = DKDLoss(0.0, 1.0, reduction=None)
    value = loss((TEACHER, LABELS), STUDENT)
    np.testing.assert_allclose(
        value, loss((TEACHER, LABELS), STUDENT + 5 * ONE_HOT), rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(value, loss((TEACHER, LABELS), STUDENT + 5 * ONE_HOT[::-1]))


def test_the_target_part_does_not_see_how_the_others_share():
    loss = DKDLoss(1.0, 0.0, reduction=None)
    swapped = STUDENT.copy()
    for row, label in zip(swapped, LABELS, strict=True):
        others = np.flatnonzero(np.arange(CLASSES) != label)
        row[others] = row[others[::-1]]
    np.testing.assert_allclose(
        loss((TEACHER, LABELS), STUDENT), loss((TEACHER, LABELS), swapped), rtol=1e-4, atol=1e-5
    )


def test_the_target_of_mixed_labels_is_the_largest():
    by_integer, by_mixed = (
        float(DKDLoss()((TEACHER, labels), STUDENT)) for labels in (LABELS, MIXED)
    )
    assert by_integer == by_mixed
    assert by_mixed != float(DKDLoss()((TEACHER, np.roll(MIXED, 1, axis=1)), STUDENT))


def test_class_numbers_above_a_hundred():
    r = np.random.default_rng(0)
    teacher, student = r.standard_normal((2, 4, 1000)).astype("float32")
    labels = np.array([999, 257, 0, 998])
    one_hot = np.eye(1000, dtype="float32")[labels]
    values = [float(DKDLoss()((teacher, given), student)) for given in (labels, one_hot)]
    assert values[0] == values[1]


def test_the_defaults_are_those_of_its_authors_on_cifar():
    config = DKDLoss().get_config()
    assert [config[name] for name in ("alpha", "beta", "temperature")] == [1.0, 8.0, 4.0]
