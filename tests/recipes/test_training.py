import csv

import keras
import numpy as np
import pytest

from letkd_keras import models
from letkd_keras.data import load_digits
from letkd_keras.recipes import training
from letkd_keras.recipes.training import Schedule, cifar_schedule, finish, finished, train


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def data():
    return load_digits().subset(64, 32)


def _model():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=4)(inputs)
    x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))


def _train(model, data, folder, schedule=None):
    schedule = schedule or Schedule(3, 0.1, (1, 2), batch_size=16)
    return train(model, data, schedule, folder, seed=5, augmentation={"flip": False}, verbose=0)


def test_the_papers_milestones_scale_with_the_epochs():
    assert cifar_schedule().milestones == (150, 180, 210)
    assert cifar_schedule(epochs=24).milestones == (15, 18, 21)


@pytest.mark.parametrize("argument", ["epochs", "batch_size"])
def test_a_schedule_of_nothing_is_refused(argument):
    with pytest.raises(
        ValueError, match=f"`{argument}` must be at least 1. Received: {argument}=0"
    ):
        Schedule(**{"epochs": 1, "learning_rate": 0.1, "milestones": (), argument: 0})


def test_an_interrupted_training_ends_in_the_same_weights(data, tmp_path, monkeypatch):
    undisturbed = _model()
    expected = _train(undisturbed, data, tmp_path / "undisturbed")

    with monkeypatch.context() as patched:

        class Stop(training.StopOnNonFiniteLoss):
            def on_train_batch_end(self, batch, logs=None):
                if (self.epoch, batch) == (1, 2):
                    raise Interrupted

        patched.setattr(training, "StopOnNonFiniteLoss", Stop)
        with pytest.raises(Interrupted):
            _train(_model(), data, tmp_path / "run")
    resumed = _model()
    result = _train(resumed, data, tmp_path / "run")

    for ours, theirs in zip(resumed.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for key in ("accuracy_last", "accuracy_best", "best_epoch", "epochs"):
        assert result[key] == expected[key]


def test_metrics_have_a_row_for_each_epoch_with_the_rate_it_ran_at(data, tmp_path):
    _train(_model(), data, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [0, 1, 2]
    rates = [float(row["learning_rate"]) for row in rows]
    np.testing.assert_allclose(rates, [0.1, 0.01, 0.001], rtol=1e-6)
    assert {"loss", "val_loss", "accuracy", "val_accuracy", "seconds"} <= set(rows[0])
    assert list((tmp_path / "tensorboard").rglob("events.*"))


def test_best_and_last_epoch_are_told_apart():
    rows = [
        {"epoch": epoch, "val_accuracy": accuracy, "seconds": 2.0}
        for epoch, accuracy in enumerate([0.25, 0.75, 0.5])
    ]
    assert training.summary(rows) == {
        "accuracy_last": 50.0,
        "accuracy_best": 75.0,
        "best_epoch": 2,
        "epochs": 3,
        "seconds": 6.0,
    }


def test_a_loss_that_is_not_finite_stops_the_training(data, tmp_path):
    schedule = Schedule(1, 1e30, (), batch_size=16)
    with pytest.raises(FloatingPointError, match=r"not finite in epoch 1, step \d.*loss = "):
        _train(models.build("resnet8", num_classes=10), data, tmp_path, schedule)


def test_a_finished_training_leaves_its_result_and_no_state(data, tmp_path):
    result = _train(_model(), data, tmp_path)
    assert finished(tmp_path) is None
    finish(tmp_path, result)
    assert finished(tmp_path) == result
    assert not list(tmp_path.glob("state*"))


def test_an_epoch_is_chosen_by_validation_and_tested_once(data, tmp_path, monkeypatch):
    held = data.hold_out(0.25)
    read = []
    batches = type(held).evaluation_batches

    def counted(self, size, split="test"):
        read.append(split)
        return batches(self, size, split)

    monkeypatch.setattr(type(held), "evaluation_batches", counted)
    model = _model()
    schedule = Schedule(4, 0.3, (), batch_size=16)
    result = _train(model, held, tmp_path, schedule)
    assert read == ["validation", "test"]
    rows = training.read_metrics(tmp_path / "metrics.csv")
    validation = [row["val_accuracy"] for row in rows]
    assert result["best_epoch"] == 1 + validation.index(max(validation))
    assert result["accuracy_validation"] == 100 * max(validation)
    assert "accuracy_last" not in result and "accuracy_best" not in result
    # The model has the weights that were chosen: they give both numbers again.
    for split, key in (("validation", "accuracy_validation"), ("test", "accuracy_chosen")):
        again = model.evaluate(held.evaluation_batches(256, split), return_dict=True, verbose=0)
        assert 100 * again["accuracy"] == pytest.approx(result[key])
    finish(tmp_path, result)
    assert not list(tmp_path.glob("*.weights.h5"))
