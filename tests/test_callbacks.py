import keras
import numpy as np
import pytest

from letkd_keras.callbacks import StopOnNonFiniteLoss


def _model(loss="mse"):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss)
    return model


def test_the_broken_step_and_loss_are_named():
    x, y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    x[5] = np.nan
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 3: loss = nan.*learning rate"):
        _model().fit(
            x, y, batch_size=2, shuffle=False, verbose=0, callbacks=[StopOnNonFiniteLoss()]
        )


def test_only_what_is_broken_is_named_infinity_too():
    callback = StopOnNonFiniteLoss()
    callback.on_epoch_begin(2)
    with pytest.raises(FloatingPointError, match=r"epoch 3, step 1: loss = inf, kl = nan\."):
        callback.on_train_batch_end(0, {"loss": np.inf, "task_loss": 1.0, "kl": np.nan})


def test_finite_losses_pass():
    x, y = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
    history = _model().fit(x, y, epochs=2, verbose=0, callbacks=[StopOnNonFiniteLoss()])
    assert len(history.history["loss"]) == 2
    StopOnNonFiniteLoss().on_train_batch_end(0)
