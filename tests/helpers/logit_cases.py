"""Logits and labels for the tests of the losses on logits, and gradients of both kinds."""

import numpy as np
from scipy.optimize import approx_fprime
from scipy.special import log_softmax, softmax

CLASSES = 10
LABELS = np.array([0, 3, 9, 3, 5, 7])
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]
MIXED = 0.7 * ONE_HOT + 0.3 * np.roll(ONE_HOT, 1, axis=0)
WEIGHTS = np.array([0.5, 0, 2, 1, 3, 0.25], "float32")


def logits(seed, size=3.0):
    """Logits of a network, float32 [6, 10]."""
    return (size * np.random.default_rng(seed).standard_normal((6, CLASSES))).astype("float32")


TEACHER, STUDENT = logits(0), logits(1)


def kl(p_logits, q_logits):
    """KL of two softmaxes over the last axis, in probabilities, float64."""
    p = softmax(np.asarray(p_logits, "float64"), axis=-1)
    log_p = log_softmax(np.asarray(p_logits, "float64"), axis=-1)
    log_q = log_softmax(np.asarray(q_logits, "float64"), axis=-1)
    return (p * (log_p - log_q)).sum(-1)


def value_and_gradient(loss, y_true, student, sample_weight=None):
    """Value of a loss and its gradient with respect to the student's logits."""
    import tensorflow as tf

    student = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(y_true, student, sample_weight)
    return float(value), tape.gradient(value, student).numpy()


def numeric_gradient(function, student):
    """Gradient of a NumPy function of the student's logits by finite differences, float64."""
    student = student.astype("float64")
    flat = approx_fprime(student.ravel(), lambda x: function(x.reshape(student.shape)), 1e-6)
    return flat.reshape(student.shape)


def assert_agrees(loss, reference, teacher=TEACHER, student=STUDENT, labels=LABELS):
    """The loss's samples, mean and gradient are those of `reference(teacher, student)`, [B]."""
    teacher64 = teacher.astype("float64")

    def mean(x):
        return reference(teacher64, x).mean()

    unreduced = type(loss).from_config({**loss.get_config(), "reduction": None})
    np.testing.assert_allclose(
        unreduced((teacher, labels), student),
        reference(teacher64, student.astype("float64")),
        rtol=1e-4,
        atol=1e-5,
    )
    value, gradient = value_and_gradient(loss, (teacher, labels), student)
    np.testing.assert_allclose(value, mean(student.astype("float64")), rtol=1e-4)
    expected = numeric_gradient(mean, student)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
