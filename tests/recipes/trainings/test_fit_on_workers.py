"""What needs no other worker; `test_shared_training` has real ones."""

from types import SimpleNamespace

from letkd_keras.recipes.trainings import fit_on_workers, training
from letkd_keras.recipes.trainings.schedule import Schedule


def test_one_worker_trains_by_the_order_of_the_chief(monkeypatch):
    schedule = Schedule(2, 0.1, (1,))
    calls = []
    monkeypatch.setattr(fit_on_workers, "load_model", str)
    monkeypatch.setattr(training, "train", lambda *args, **options: calls.append((args, options)))
    order = {"schedule": schedule.config(), "digest": "1", "seed": 5, "augmentation": {}}
    fit_on_workers.fit_alone("file", "data", order, "folder")
    assert calls == [(("file", "data", schedule, "folder"), {"seed": 5, "augmentation": {}})]


def test_what_is_saved_in_scope_sees_the_end_of_the_training(tmp_path):
    state = {"epochs": 1, "last": None, "best": None, "rows": []}
    save_state = training.SaveState(tmp_path, state, keeps_best=False)
    save_state.state = state
    in_scope = fit_on_workers.InScope(save_state, group=None)
    in_scope.set_model(SimpleNamespace(stop_training=True))
    in_scope.on_train_end()
    assert training.read_state(tmp_path)["stopped"]
