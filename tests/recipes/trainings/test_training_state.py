import keras
import numpy as np
import pytest
from small_training import small_model, small_schedule

from letkd_keras.data import load_digits
from letkd_keras.recipes.trainings import training_folder
from letkd_keras.recipes.trainings.training import train
from letkd_keras.recipes.trainings.training_state import SaveState, finish, is_over, read_state


def _train(folder):
    data = load_digits().subset(64, 32)
    return train(
        small_model(), data, small_schedule(), folder, seed=5, augmentation={"flip": False}
    )


def _fit(folder, *callbacks):
    """Three epochs, whose states would be saved a long time after each other."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    folder.mkdir()
    save = SaveState(folder, read_state(folder), keeps_best=False, seconds=1000)
    model.fit(*np.ones((2, 4, 2)), epochs=3, verbose=0, callbacks=[save, *callbacks])
    return read_state(folder)


class _StopAfterTwo(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def test_states_with_a_time_between_them_lose_no_epoch(tmp_path):
    """The last epoch is saved although the time is not over, also where a callback ends `fit`."""
    for name, epochs, callbacks in (("whole", 3, ()), ("stopped", 2, (_StopAfterTwo(),))):
        state = _fit(tmp_path / name, *callbacks)
        assert state["epochs"] == len(state["rows"]) == epochs
        assert state.get("stopped", False) == bool(callbacks)
        assert is_over(state, 3)
        assert [file.name for file in (tmp_path / name).glob("*.h5")] == [state["last"]["name"]]


def test_the_first_of_the_best_epochs_is_kept(tmp_path):
    model = small_model()
    model.compile("sgd", "mse")
    save = SaveState(tmp_path, read_state(tmp_path), keeps_best=True, seconds=1000)
    save.set_model(model)
    save.set_params({"epochs": 4})
    for epoch, accuracy in enumerate((0.5, 0.75, 0.75)):
        save.on_epoch_begin(epoch)
        save.on_epoch_end(epoch, {"val_accuracy": accuracy})
        assert read_state(tmp_path)["epochs"] == epoch + 1
    assert read_state(tmp_path)["best"]["name"] == "best-2.weights.h5"


def test_a_kill_before_the_last_state_loses_no_row(tmp_path, monkeypatch):
    def killed(file, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(training_folder, "write_checked_json", killed)
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0.0"]
    epochs = _train(tmp_path)["epochs"]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + epochs


def _flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state-2.weights.h5", _flip_a_byte),
        ("state-2.weights.h5", _truncate),
        ("state-2.weights.h5", lambda file: file.unlink()),
        ("state.json", _flip_a_byte),
        ("state.json", _truncate),
    ],
)
def test_a_damaged_state_is_refused(name, damage, tmp_path):
    folder = tmp_path / "run"
    _fit(folder, _StopAfterTwo())
    damage(folder / name)
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=rf"{name} is damaged or missing. Delete the folder .*run"):
        _train(folder)
    assert sorted(folder.iterdir()) == before


def test_a_finished_training_needs_no_state(tmp_path):
    assert training_folder.finished(tmp_path) is None
    result = _train(tmp_path)
    assert training_folder.finished(tmp_path) is None
    # Of a second start while this one trained.
    (tmp_path / "error.txt").write_text("ValueError: it is being trained by another process")
    finish(tmp_path, result)
    assert training_folder.finished(tmp_path) == result
    assert training_folder.failure(tmp_path) is None
    assert not list(tmp_path.glob("state*"))
