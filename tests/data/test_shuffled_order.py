import numpy as np
import pytest
import tensorflow as tf

from letkd_keras.data.shuffled_order import shuffled

BATCH = 64


def order(count, seed, epoch):
    """The order of an epoch, [count]."""
    return shuffled(tf.range(count, dtype="int64"), seed, tf.constant(epoch), count).numpy()


def order_of_numpy(count, seed, epoch):
    return np.random.default_rng([seed, epoch]).permutation(count)


@pytest.mark.parametrize("count", [1, 2, 3, 100, 1001])
def test_every_image_comes_once(count):
    np.testing.assert_array_equal(np.sort(order(count, 3, 5)), np.arange(count))


def test_positions_are_independent_of_each_other():
    part = shuffled(tf.constant([7, 3], "int64"), 1, tf.constant(2), 100)
    np.testing.assert_array_equal(part, order(100, 1, 2)[[7, 3]])


def shared_pairs(first, second):
    """How often two images of a batch are in one batch of the other order, too."""
    steps = len(first) // BATCH
    batch_of = np.empty(len(first), int)
    batch_of[second] = np.arange(len(first)) // BATCH
    batches = np.sort(batch_of[first[: steps * BATCH]].reshape(steps, BATCH), axis=1)
    return np.sum(batches[:, 1:] == batches[:, :-1])


@pytest.mark.parametrize("seeds, epochs", [((0, 1), (0, 0)), ((1, 2), (9, 9)), ((0, 0), (0, 1))])
def test_batches_of_two_seeds_and_of_two_epochs_share_as_few_images_as_random_ones(seeds, epochs):
    count = 50_000
    ours, random = (
        shared_pairs(*(make(count, *key) for key in zip(seeds, epochs, strict=True)))
        for make in (order, order_of_numpy)
    )
    assert ours < 1.2 * random
