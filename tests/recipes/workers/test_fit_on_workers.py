"""What needs no other worker; `test_shared_training` has real ones."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from small_training import small_model
from worker_threads import Threads, in_threads

from letkd_keras.recipes.trainings import training
from letkd_keras.recipes.trainings.schedule import Schedule
from letkd_keras.recipes.trainings.training_state import SaveState, read_state
from letkd_keras.recipes.workers import fit_on_workers


def test_one_worker_trains_by_the_order_of_the_chief(monkeypatch):
    schedule = Schedule(2, 0.1, (1,))
    calls = []
    monkeypatch.setattr(fit_on_workers, "model_of_bytes", lambda content, _: content.decode())
    monkeypatch.setattr(training, "train", lambda *args, **options: calls.append((args, options)))
    order = {"schedule": schedule.config(), "digest": "1", "seed": 5, "augmentation": {}}
    fit_on_workers.fit_alone(b"model", "data", order, "folder")
    assert calls == [(("model", "data", schedule, "folder"), {"seed": 5, "augmentation": {}})]


def test_a_damaged_state_of_the_chief_ends_all(tmp_path, monkeypatch):
    monkeypatch.setattr(Threads, "errors_of_lost_workers", lambda group: ())
    (tmp_path / "state.json").write_text("{")

    def fit(group):
        with pytest.raises(ValueError, match=r"state\.json is damaged"):
            fit_on_workers.fit(group, b"", None, {}, tmp_path if group.is_chief else None)
        return True

    assert in_threads(2, fit) == [True, True]


def test_what_is_saved_in_scope_sees_the_end_of_the_training(tmp_path):
    state = {"epochs": 1, "last": None, "best": None, "rows": []}
    save_state = SaveState(tmp_path, state, keeps_best=False)
    in_scope = fit_on_workers.InScope(save_state, group=None)
    in_scope.set_model(SimpleNamespace(stop_training=True))
    in_scope.on_train_end()
    assert read_state(tmp_path)["stopped"]


def test_the_state_of_every_epoch_is_saved_in_scope(tmp_path):
    state = {"epochs": 0, "last": None, "best": None, "rows": []}
    model = small_model()
    model.compile("sgd", "mse")
    in_scope = fit_on_workers.InScope(
        SaveState(tmp_path, state, keeps_best=False), SimpleNamespace(scope=nullcontext)
    )
    in_scope.set_model(model)
    for epoch in range(2):
        in_scope.on_epoch_begin(epoch)
        in_scope.on_epoch_end(epoch, {"loss": 1.0, "val_accuracy": 0.5})
        assert read_state(tmp_path)["epochs"] == epoch + 1
