import keras
import numpy as np
import pytest
from random_students import trained_looking

from letkd_keras import quantization_aware
from letkd_keras.export import fold
from letkd_keras.functional.lora import without_lora

X = np.random.default_rng(0).standard_normal((5, 6, 6, 3)).astype("float32")


def _network():
    """A network whose convolution, called twice, and classifier are adapted."""
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 1, name="first")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    conv = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="twice")
    x = keras.layers.GlobalAveragePooling2D()(conv(conv(x)))
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x), name="net")


@pytest.fixture
def model():
    network = _network()
    for name in ("first", "twice", "head"):
        network.get_layer(name).enable_lora(2, lora_alpha=3)
    adapted = trained_looking(network)
    for name in ("first", "twice", "head"):  # zeros at first, as if there were none
        matrix = adapted.get_layer(name).lora_kernel_b
        matrix.assign(np.random.default_rng(1).normal(size=matrix.shape))
    return adapted


def test_the_kernels_of_plain_layers_have_the_matrices_added(model):
    plain = without_lora(model)
    np.testing.assert_allclose(plain(X), model(X), atol=1e-5)
    assert plain.count_params() == _network().count_params() < model.count_params()
    assert len(plain.trainable_variables) == len(_network().trainable_variables)
    head = model.get_layer("head")
    matrices = [np.asarray(w) for w in (head.lora_kernel_a, head.lora_kernel_b)]
    kernel, base = (np.asarray(w) for w in (plain.get_layer("head").kernel, head._kernel))
    np.testing.assert_allclose(kernel, base + 3 / 2 * matrices[0] @ matrices[1], rtol=1e-5)


def test_a_model_without_lora_stays_as_it_is():
    network = _network()
    assert without_lora(network) is network


def test_an_adapted_student_is_folded(model):
    folded = fold(model)
    np.testing.assert_allclose(folded(X), model(X), atol=1e-4)
    assert not any(isinstance(x, keras.layers.BatchNormalization) for x in folded.layers)


def test_an_adapted_student_is_trained_as_its_integer_file(model):
    aware, plain = quantization_aware(model), without_lora(model)
    assert aware(X, training=True).shape == (5, 3)
    for name in ("first", "twice", "head"):
        values = (m.get_layer(name).get_weights() for m in (aware, plain))
        for value, expected in zip(*values, strict=True):
            np.testing.assert_array_equal(value, expected)


def test_lora_inside_another_layer_is_refused():
    inputs = keras.Input((4, 8))
    attention = keras.layers.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model(inputs, attention(inputs, inputs))
    attention.query_dense.enable_lora(2)
    with pytest.raises(ValueError, match=r"must not have LoRA in .* with LoRA in 'attention/query"):
        without_lora(model)
