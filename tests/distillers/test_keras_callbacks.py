"""Keras' own callbacks with a distiller."""

import keras
import numpy as np
import pytest
from letkd_steps import LOSSES, compiled, letkd

from letkd_keras import TorchSGD
from letkd_keras.distillers import FitNet


class _Batches(keras.utils.PyDataset):
    """Two batches of which the second has NaN: only those of arrays are looked at before."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.x * np.float32([1, np.nan][index]), self.y


def test_terminate_on_nan_ends_the_training(setting):
    model = compiled(letkd(setting))
    steps = []
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: steps.append(logs))
    stop = keras.callbacks.TerminateOnNaN()
    history = model.fit(_Batches(setting.x, setting.y), epochs=3, callbacks=[seen, stop], verbose=0)
    assert model.stop_training
    assert len(history.epoch) == 1
    first, second = steps
    for name in LOSSES:
        assert np.isfinite(first[name]) and np.isnan(second[name])


class _Average(keras.callbacks.Callback):
    """The running average of all weights that are trained, step by step in NumPy."""

    def __init__(self, momentum):
        super().__init__()
        self.momentum, self.average = momentum, None

    def weights(self):
        return [keras.ops.convert_to_numpy(w) for w in self.model.trainable_weights]

    def on_train_batch_end(self, batch, logs=None):
        weights = self.weights()
        before = self.average or weights
        self.average = [
            self.momentum * old + (1 - self.momentum) * new
            for old, new in zip(before, weights, strict=True)
        ]


def _with_regressor(setting):
    """FitNet: of its weights, those of the regressor are not the student's."""
    return FitNet(setting.teacher, setting.student())


@pytest.mark.parametrize("optimizer", [TorchSGD, keras.optimizers.Adam])
def test_checkpoints_and_validation_have_the_averaged_weights(optimizer, setting, tmp_path):
    model = _with_regressor(setting)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer(0.01, use_ema=True, ema_momentum=0.7), loss, run_eagerly=True)
    average = _Average(0.7)
    callbacks = [
        average,
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
    ]
    data = {"validation_data": (setting.x, setting.y), "batch_size": 6, "verbose": 0}
    logs = model.fit(setting.x, setting.y, epochs=2, callbacks=callbacks, **data).history
    for actual, expected in zip(average.weights(), average.average, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    trained = model.student(setting.x)
    loaded = keras.models.load_model(tmp_path / "2.keras")
    np.testing.assert_allclose(loaded.student(setting.x), trained, rtol=1e-5)
    assert model.evaluate(setting.x, setting.y, verbose=0) == pytest.approx(
        logs["val_loss"][1], rel=1e-4
    )
    again = _with_regressor(setting)
    again.load_weights(tmp_path / "2.weights.h5")
    np.testing.assert_allclose(again.student(setting.x), trained, rtol=1e-5)
    # The training can go on from the file.
    loaded.fit(setting.x, setting.y, callbacks=callbacks[1:2], **data)
    assert np.isfinite(loaded.student(setting.x)).all()


def test_after_a_training_with_averaged_weights_it_can_go_on(setting):
    model = _with_regressor(setting)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(TorchSGD(0.01, use_ema=True, ema_momentum=0.7), loss)
    for _ in range(2):
        model.fit(setting.x, setting.y, batch_size=6, verbose=0)
    state = [*model.trainable_weights, *model.optimizer.variables]
    assert all(np.isfinite(keras.ops.convert_to_numpy(each)).all() for each in state)
    assert int(model.optimizer.iterations) == 4
