import csv

import keras
import numpy as np
import pytest
from small_training import small_model

from letkd_keras.data import load_digits
from letkd_keras.recipes.trainings import training, training_folder
from letkd_keras.recipes.trainings.schedule import Schedule
from letkd_keras.recipes.trainings.training import train
from letkd_keras.recipes.trainings.training_state import finish


@pytest.fixture(scope="module")
def data():
    return load_digits().subset(64, 32)


def _train(model, data, folder, schedule=None):
    schedule = schedule or Schedule(3, 0.1, (1, 2), batch_size=16)
    return train(model, data, schedule, folder, seed=5, augmentation={"flip": False})


def test_metrics_have_a_row_for_each_epoch_with_its_learning_rate(data, tmp_path):
    _train(small_model(), data, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [0, 1, 2]
    rates = [float(row["learning_rate"]) for row in rows]
    np.testing.assert_allclose(rates, [0.1, 0.01, 0.001], rtol=1e-6)
    assert {"loss", "val_loss", "accuracy", "val_accuracy", "seconds"} <= set(rows[0])
    assert list((tmp_path / "tensorboard").rglob("events.*"))


def test_the_step_of_a_plain_network_is_traced_once(data, tmp_path, monkeypatch):
    calls = []
    step = keras.Model.train_step

    def count(self, batch):
        calls.append(batch)
        return step(self, batch)

    monkeypatch.setattr(keras.Model, "train_step", count)
    _train(small_model(), data, tmp_path)
    assert len(calls) == 1


@pytest.mark.parametrize("augmentation", [{}, {"policies": ["mixup"]}], ids=["classes", "mixed"])
def test_accuracy_is_the_share_of_images_of_which_the_class_is_named(data, augmentation):
    """Whether labels are classes, or distributions because a policy mixes them."""
    model = small_model()
    training.compile_model(model, data, Schedule(1, 0.1, (), batch_size=16), augmentation)
    batches = training.evaluation_batches(data, augmentation, "test")
    images = np.concatenate([np.asarray(images) for images, _ in batches])
    named = np.asarray(model(images)).argmax(-1)
    accuracy = model.evaluate(batches, return_dict=True, verbose=0)["accuracy"]
    assert accuracy == pytest.approx(np.mean(named == data.y_test))


def test_best_and_last_epoch():
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
    with pytest.raises(FloatingPointError, match="loss is not finite"):
        _train(small_model(), data, tmp_path, Schedule(3, 1e30, (), batch_size=16))


def test_an_epoch_is_selected_on_validation_images_and_tested_once(data, tmp_path, monkeypatch):
    data = data.hold_out(0.25)
    read = []
    batches = type(data).evaluation_batches

    def counted(self, batch_size=256, split="test", part=None):
        read.append(split)
        return batches(self, batch_size, split, part)

    monkeypatch.setattr(type(data), "evaluation_batches", counted)
    model = small_model()
    result = _train(model, data, tmp_path, Schedule(4, 0.3, (), batch_size=16))
    assert read == ["validation", "test"]
    rows = training_folder.read_metrics(tmp_path / "metrics.csv")
    validation = [row["val_accuracy"] for row in rows]
    assert result["best_epoch"] == 1 + validation.index(max(validation))
    assert result["accuracy_validation"] == 100 * max(validation)
    assert "accuracy_last" not in result and "accuracy_best" not in result
    # The model has the weights that were selected: they give both numbers again.
    for split, key in (("validation", "accuracy_validation"), ("test", "accuracy_selected")):
        again = model.evaluate(data.evaluation_batches(256, split), return_dict=True, verbose=0)
        assert 100 * again["accuracy"] == pytest.approx(result[key])
    finish(tmp_path, result)
    assert not list(tmp_path.glob("*.weights.h5"))
