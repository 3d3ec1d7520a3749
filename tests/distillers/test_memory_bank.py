import keras
import numpy as np
import pytest

from letkd_keras.distillers.memory_bank import MemoryBank, NegativeSampler


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="takes gradients by a tape")
def test_the_normalizer_is_a_constant_in_the_first_step_too():
    import tensorflow as tf

    bank = MemoryBank(6, 4)
    embeddings = tf.constant(np.random.default_rng(0).standard_normal((3, 4)).astype("float32"))
    rows, gradients = np.array([[0, 1], [2, 3], [4, 5]]), []
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            outputs = bank(embeddings, rows, temperature=0.5)
        gradients.append(tape.gradient(outputs, embeddings))
    expected = np.asarray(bank.memories)[rows].sum(axis=1) / 0.5
    for gradient in gradients:
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)
    assert not bank.trainable_variables


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, -1, 1], [0, 1], [0.0, 1.0, 1.0]])
def test_labels_that_are_no_classes_of_all_images_are_refused(labels):
    sampler = NegativeSampler(3, 2, 1)
    assert not sampler.trainable_variables
    with pytest.raises(ValueError, match="`labels` must be 3 integers below 2, the classes"):
        sampler.adapt(labels)
