import keras
import numpy as np
import pytest
from registered_name import has_registered_name

from letkd_keras import models
from letkd_keras.distillers import Supervised


def test_it_trains_and_saves_the_weights_of_its_model(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(8, 8, 8, 3)).astype("float32")
    y = generator.integers(0, 3, 8)
    plain, shared, loaded = (models.build("resnet8", 3, (8, 8, 3)) for _ in range(3))
    shared.set_weights(plain.get_weights())
    supervised = Supervised(shared.inputs, shared.outputs, name=shared.name)
    histories = []
    for model in (plain, supervised):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"])
        history = model.fit(x, y, batch_size=4, shuffle=False, verbose=0, validation_data=(x, y))
        histories.append(history.history)
    for name, values in histories[0].items():
        assert histories[1][name] == pytest.approx(values, rel=1e-5)
    supervised.save_weights(tmp_path / "trained.weights.h5")
    loaded.compile("sgd", "mse")
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(tmp_path / "trained.weights.h5")
    for array, other, expected in zip(
        loaded.get_weights(), shared.get_weights(), plain.get_weights(), strict=True
    ):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(other, array)


def test_saved_whole_and_loaded_it_is_the_same_model(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    network = models.build("resnet8", 3, (8, 8, 3))
    supervised = Supervised(network.inputs, network.outputs, name="mine")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    supervised.compile("sgd", loss, metrics=["accuracy"])
    supervised.fit(x, np.arange(4) % 3, verbose=0)
    supervised.save(tmp_path / "whole.keras")
    loaded = keras.models.load_model(tmp_path / "whole.keras")
    assert has_registered_name(loaded) and isinstance(loaded, Supervised)
    assert loaded.name == "mine"
    np.testing.assert_allclose(*(m.predict(x, verbose=0) for m in (loaded, supervised)), rtol=1e-5)
    loaded.fit(x, np.arange(4) % 3, verbose=0)
