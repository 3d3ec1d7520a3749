import keras
import numpy as np
import pytest
from keras import layers

from letkd_keras.logits import with_logits

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def _classifier(head):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3)(inputs)
    return keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))


def _dense_softmax(x):
    return layers.Dense(5, activation="softmax", name="head")(x)


def _softmax_layer(x):
    return layers.Softmax(name="head")(layers.Dense(5)(x))


def _activation_layer(x):
    return layers.Activation("softmax", name="head")(layers.Dense(5)(x))


@pytest.mark.parametrize("head", [_dense_softmax, _softmax_layer, _activation_layer])
def test_the_softmax_of_the_logits_is_what_the_model_gave(head):
    model = _classifier(head)
    logits = with_logits(model)
    values = logits.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(
        keras.ops.softmax(values), model.predict(IMAGES, verbose=0), rtol=1e-6
    )
    assert not np.allclose(values.sum(axis=-1), 1)
    assert logits.layers[1] is model.layers[1]


def test_logits_are_left_alone():
    model = _classifier(layers.Dense(5))
    assert with_logits(model) is model


def test_the_result_can_be_saved(tmp_path):
    logits = with_logits(_classifier(_dense_softmax))
    logits.save(tmp_path / "logits.keras")
    loaded = keras.models.load_model(tmp_path / "logits.keras")
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), logits.predict(IMAGES, verbose=0)
    )


def test_other_ends_are_refused():
    model = _classifier(layers.Dense(5, activation="sigmoid", name="scores"))
    with pytest.raises(ValueError, match=r"`teacher` must end in logits.*'scores'.*'sigmoid'"):
        with_logits(model, "teacher")
