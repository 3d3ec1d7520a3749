import logging

import keras
import numpy as np
import pytest

from letkd_keras.callbacks import ShowProgress, StopOnNonFiniteLoss


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


def test_metrics_that_are_vectors_pass():
    callback = StopOnNonFiniteLoss()
    callback.on_epoch_begin(0)
    callback.on_train_batch_end(0, {"loss": 1.0, "f1_score": np.array([0.5, np.nan])})
    with pytest.raises(FloatingPointError, match=r"step 1: loss = nan\."):
        callback.on_train_batch_end(0, {"loss": np.nan, "f1_score": np.array([0.5, np.nan])})


def _logged_epochs(callback, epochs, first=0):
    callback.set_params({"epochs": epochs, "steps": 2})
    callback.on_train_begin()
    for epoch in range(first, epochs):
        callback.on_epoch_begin(epoch)
        callback.on_train_batch_end(0, {"loss": 2.0, "accuracy": 0.25})
        callback.on_epoch_end(epoch, {"loss": 1.0, "accuracy": 0.5, "val_accuracy": 0.75})
    callback.on_train_end()


def test_epochs_are_lines_where_there_is_no_terminal(caplog):
    caplog.set_level(logging.INFO, "letkd_keras")
    _logged_epochs(ShowProgress("test"), 2)
    assert caplog.messages == [
        "epoch 1/2, loss 1.0000, accuracy 50.00%, test accuracy 75.00%, 0:00:00 left",
        "epoch 2/2, loss 1.0000, accuracy 50.00%, test accuracy 75.00%",
    ]


def test_of_many_epochs_few_are_lines(caplog):
    caplog.set_level(logging.DEBUG, "letkd_keras.callbacks")
    _logged_epochs(ShowProgress(most_lines=4), 10, first=3)
    shown = [r.getMessage().split(",")[0] for r in caplog.records if r.levelno == logging.INFO]
    assert shown == ["epoch 6/10", "epoch 9/10", "epoch 10/10"]
    assert len(caplog.records) == 7


def test_the_bar_has_the_whole_training_and_is_removed_where_it_fails():
    callback = ShowProgress()
    callback.set_params({"epochs": 10, "steps": 4})
    with pytest.raises(ValueError, match="x"), callback:
        callback.on_train_begin()
        callback.on_epoch_begin(3)
        callback.on_train_batch_end(1, {"loss": 2.0, "accuracy": 0.25})
        (task,) = callback._bars.tasks
        assert (task.description, task.completed, task.total) == ("epoch 4/10", 14, 40)
        assert task.fields["note"] == "loss 2.000  train 25.0%"
        raise ValueError("x")
    assert callback._open.pop_all()._exit_callbacks == type(callback._open._exit_callbacks)()


def test_the_bar_of_a_training_of_unknown_length_counts_epochs():
    callback = ShowProgress()
    callback.set_params({"epochs": 2, "steps": None})
    with callback:
        callback.on_train_begin()
        for epoch in range(2):
            callback.on_epoch_begin(epoch)
            for batch in range(5):
                callback.on_train_batch_end(batch, {"loss": 2.0})
                (task,) = callback._bars.tasks
                assert (task.completed, task.total) == (epoch, 2)
            callback.on_epoch_end(epoch, {"loss": 1.0})
        assert task.finished
