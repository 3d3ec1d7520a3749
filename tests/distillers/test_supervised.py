import keras
import numpy as np
import pytest

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
