"""Trainings on Ray, without Ray; `test_shared_training` has one with it."""

import logging
import sys
from types import SimpleNamespace

import pytest

from letkd_keras.data import DataSpec
from letkd_keras.recipes.trainings import training_folder
from letkd_keras.recipes.trainings.training_data import few_for_students
from letkd_keras.recipes.workers import ray_workers


def test_ray_on_jax_is_refused():
    with pytest.raises(ValueError, match=r"trains on TensorFlow only.*KERAS_BACKEND=jax"):
        ray_workers.check("jax")


def test_ray_beside_tf_config_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(ValueError, match="must not be ray where TF_CONFIG is set"):
        ray_workers.check("tensorflow")


def test_ray_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install \"letkd-keras\[ray\]\""):
        ray_workers.check("tensorflow")


def test_a_worker_opens_the_data_that_are_trained_on():
    """All of them, the labelled ones, or the few of the students."""
    spec = DataSpec("digits", train_examples=60, test_examples=20, labelled_fraction=0.5, seed=3)
    data = spec.open()
    config = {"data": spec.config(), "student_examples": 20}
    labelled, few = data.labelled(), few_for_students(data, 20, spec.seed)
    assert len({data.digest, labelled.digest, few.digest}) == 3
    for expected in (data, labelled, few):
        order = {"digest": expected.digest}
        assert ray_workers._data(config, order).digest == expected.digest
    with pytest.raises(ValueError, match="images of the workers differ"):
        ray_workers._data(config, {"digest": "other"})


def test_epochs_of_the_workers_are_logged(tmp_path, caplog):
    def write(epochs):
        rows = [{"epoch": i, "loss": 2.0 - i, "val_accuracy": 0.25} for i in range(epochs)]
        state = {"epochs": epochs, "last": None, "best": None, "rows": rows}
        training_folder.write_checked_json(tmp_path / "state.json", state)

    write(1)
    order = {"schedule": {"epochs": 3}}
    data = SimpleNamespace(has_validation=False)
    with caplog.at_level(logging.DEBUG), ray_workers._epochs_shown(tmp_path, data, order):
        write(3)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "epoch 2/3, loss 1.0000, test accuracy 25.00%, 0:00:00 left",
        "epoch 3/3, loss 0.0000, test accuracy 25.00%",
    ]


def test_a_worker_imports_the_modules_of_the_user_first(tmp_path, monkeypatch):
    """Its model may have layers and losses that they register."""
    (tmp_path / "own_of_ray.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    monkeypatch.setattr(ray_workers.worker_environment, "connect", lambda backend: None)

    def open_data(config, order):
        raise ValueError(f"imported: {'own_of_ray' in sys.modules}")

    monkeypatch.setattr(ray_workers, "_data", open_data)
    config = {"order": {}, "folder": tmp_path, "imports": ("own_of_ray",)}
    with pytest.raises(ValueError, match="imported: True"):
        ray_workers._train({**config, "code": ray_workers.shared_training.code()})
