import logging

import keras
import numpy as np
import pytest

from letkd_keras import callbacks
from letkd_keras.callbacks import ReseedEachEpoch, ShowProgress, StopOnNonFiniteLoss


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


def test_the_remedies_of_the_caller_end_the_message():
    callback = StopOnNonFiniteLoss("Give --clip-norm 1.")
    callback.on_epoch_begin(0)
    with pytest.raises(FloatingPointError, match=r"step 1: loss = nan\. Give --clip-norm 1\.$"):
        callback.on_train_batch_end(0, {"loss": np.nan})


def _warnings_of(first_step, epochs, caplog):
    """The warnings of one `fit` with these losses, first after its first step."""
    caplog.clear()
    callback = StopOnNonFiniteLoss("Give --clip-norm 1.")
    callback.on_train_begin()
    for epoch, loss in enumerate(epochs):
        callback.on_epoch_begin(epoch)
        steps = [first_step, loss] if epoch == 0 else [loss]
        for batch, step in enumerate(steps):
            callback.on_train_batch_end(batch, {} if step is None else {"loss": step})
        callback.on_epoch_end(epoch, {} if loss is None else {"loss": loss})
    return caplog.messages


def test_a_loss_that_explodes_and_stays_finite_is_warned_about_once(caplog):
    assert _warnings_of(2.5, [1.7e4, 2.8e12, 2.5e16], caplog) == [
        "The loss of epoch 1, 1.7e+04, is more than 100 times that at the beginning: the "
        "training diverges. Give --clip-norm 1."
    ]
    (warning,) = _warnings_of(2.5, [2.4, 249.0, 251.0, 1e9], caplog)
    assert warning.startswith("The loss of epoch 3, 251, is")


@pytest.mark.parametrize(
    ("first_step", "epochs"),
    [
        (2.5, [2.5, 30.0, 249.0]),  # a weight that grows in the first epochs
        (1e-4, [1e-4, 0.5, 99.0]),  # a trained model is trained further
        (1e16, [1e16, 1e17]),
        (-3.0, [-3.0, -2.0, 50.0]),
        (None, [None, None]),
    ],
)
def test_other_losses_are_not_warned_about(first_step, epochs, caplog):
    assert _warnings_of(first_step, epochs, caplog) == []


def test_each_fit_has_a_beginning_of_its_own(caplog):
    callback = StopOnNonFiniteLoss()
    for first in (1e6, 1.0):
        callback.on_train_begin()
        callback.on_epoch_begin(0)
        callback.on_train_batch_end(0, {"loss": first})
        callback.on_epoch_end(0, {"loss": 1e3})
    assert len(caplog.messages) == 1


def test_each_random_layer_has_a_seed_of_31_bits_in_each_epoch():
    dropouts = [keras.layers.Dropout(0.5) for _ in range(4)]
    callback = ReseedEachEpoch(3)
    callback.set_model(keras.Sequential([keras.Input((2,)), *dropouts]))
    seeds = set()
    for epoch in range(4):
        callback.on_epoch_begin(epoch)
        seeds |= {tuple(np.array(layer.seed_generator.state).tolist()) for layer in dropouts}
    assert len(seeds) == 16 and max(map(max, seeds)) < 2**31
    callback.seed = 4
    callback.on_epoch_begin(0)
    assert tuple(np.array(dropouts[0].seed_generator.state).tolist()) not in seeds


def test_a_fit_that_diverges_is_warned_about(caplog):
    x, y = np.ones((8, 2), "float32"), np.full((8, 1), 9, "float32")
    model = _model()
    model.optimizer.learning_rate = 2.0
    model.fit(x, y, epochs=6, verbose=0, callbacks=[StopOnNonFiniteLoss()])
    (warning,) = caplog.messages
    assert "the training diverges. Try a tenth of the learning rate" in warning


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


def test_the_time_left_counts_the_epochs_of_this_process(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "letkd_keras")
    seconds = iter([100.0, 110.0])
    monkeypatch.setattr("letkd_keras.callbacks.time.monotonic", lambda: next(seconds))
    callback = ShowProgress()
    callback.set_params({"epochs": 10, "steps": 2})
    callback.on_train_begin()
    callback.on_epoch_begin(3)
    monkeypatch.setattr(callback._bars, "update", lambda *_, **__: None)  # it asks for the time
    callback.on_epoch_end(3, {"loss": 1.0})
    callback.on_train_end()
    assert caplog.messages == ["epoch 4/10, loss 1.0000, 0:01:00 left"]


def test_a_bar_takes_the_place_of_the_lines(caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, "letkd_keras.callbacks")
    monkeypatch.setattr("letkd_keras.callbacks.progress.is_shown", lambda: True)
    _logged_epochs(ShowProgress(), 2)
    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * 2


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (0.00012345, "0.0001"),
        (388.50671, "388.5067"),
        (9999.5, "9999.5000"),
        (12345.678, "1.235e+04"),
        (-12345.678, "-1.235e+04"),
        (1.4268625716304615e25, "1.427e+25"),
    ],
)
def test_a_huge_loss_has_few_digits(loss, shown, caplog):
    caplog.set_level(logging.INFO, "letkd_keras")
    callback = ShowProgress()
    callback.set_params({"epochs": 1, "steps": 1})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, {"loss": loss})
    callback.on_train_end()
    assert caplog.messages == [f"epoch 1/1, loss {shown}"]


def test_of_many_epochs_few_are_lines(caplog, monkeypatch):
    monkeypatch.setattr(callbacks, "_MOST_LINES", 4)
    caplog.set_level(logging.DEBUG, "letkd_keras.callbacks")
    _logged_epochs(ShowProgress(), 10, first=3)
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


def test_the_bar_keeps_the_last_evaluation_and_is_removed_at_the_end():
    callback = ShowProgress()
    callback.set_params({"epochs": 2, "steps": 4})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, {"loss": 2.0, "val_accuracy": 0.5})
    callback.on_epoch_begin(1)
    callback.on_train_batch_end(0, {"loss": 1.0})
    (task,) = callback._bars.tasks
    assert task.fields["note"] == "loss 1.000  val 50.0%"
    callback.on_train_end()
    assert not callback._open.pop_all()._exit_callbacks


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
