import numpy as np
import pytest
import tensorflow as tf

from letkd_keras.layers.score_moments import score_moments

DIRECTIONS, TEMPLATES = (4, 2, 3, 5), 7


def _numbers(*shape, seed=0):
    return tf.constant(np.random.default_rng(seed).standard_normal(shape))


def _plain(directions, kernel):
    """The moments of all scores at once."""
    scores = tf.reshape(directions @ kernel, (-1, TEMPLATES))
    return tf.reduce_mean(scores, axis=0), tf.math.reduce_variance(scores, axis=0)


def _cost(mean, variance):
    weights = _numbers(2, TEMPLATES, seed=3)
    return tf.reduce_sum(weights[0] * mean + weights[1] * variance)


@pytest.mark.parametrize("block_size", [1, 3, 4])
def test_moments_and_gradients_are_those_of_all_scores(block_size):
    directions, kernel = _numbers(*DIRECTIONS) + 1.0, _numbers(DIRECTIONS[-1], TEMPLATES, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((directions, kernel))
        *moments, values = score_moments(directions, kernel, block_size, "float64")
        cost, expected = _cost(*moments), _cost(*_plain(directions, kernel))
    assert values == 4 * 2 * 3
    np.testing.assert_allclose(moments, _plain(directions, kernel), rtol=1e-12)
    for source in (directions, kernel):
        np.testing.assert_allclose(
            tape.gradient(cost, source), tape.gradient(expected, source), rtol=1e-9, atol=1e-12
        )


def test_moments_and_gradients_over_two_replicas_are_those_of_the_whole_batch(monkeypatch):
    """One half of a batch is on this replica; the sums of the other come as from an all-reduce."""
    kernel = _numbers(DIRECTIONS[-1], TEMPLATES, seed=1)
    # The halves have different means: that of this replica is not the mean of all.
    here, there = _numbers(*DIRECTIONS) + 1.0, _numbers(*DIRECTIONS, seed=2) - 0.5
    both_mean = tf.reduce_mean(tf.concat([here, there], 0), axis=(0, 1, 2))
    deviations = tf.reshape((there - both_mean) @ kernel, (-1, TEMPLATES))
    others = iter(
        [
            tf.constant(24.0, "float64"),
            tf.reduce_sum(there, axis=(0, 1, 2)),
            tf.stack([tf.reduce_sum(deviations, 0), tf.reduce_sum(deviations**2, 0)]),
        ]
    )
    monkeypatch.setattr(
        "letkd_keras.layers.score_moments._over_replicas", lambda x: x + next(others)
    )
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((here, kernel))
        *moments, values = score_moments(here, kernel, 2, "float64", synchronized=True)
        scores = tf.concat([here @ kernel, tf.stop_gradient(there @ kernel)], 0)
        scores = tf.reshape(scores, (-1, TEMPLATES))
        whole = tf.reduce_mean(scores, axis=0), tf.math.reduce_variance(scores, axis=0)
        cost, expected = _cost(*moments), _cost(*whole)
    assert values == 48
    np.testing.assert_allclose(moments, whole, rtol=1e-12)
    for source in (here, kernel):
        np.testing.assert_allclose(
            tape.gradient(cost, source), tape.gradient(expected, source), rtol=1e-9, atol=1e-12
        )
