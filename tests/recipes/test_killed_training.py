import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parents[1] / "programs" / "train_until_killed.py"
STEPS = 25  # five epochs of five


def _train(folder, step):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(step)], capture_output=True, text=True
    )
    assert done.returncode == (-9 if step else 0), done.stderr[-3000:]


def _end(folder):
    with np.load(folder / "end.npz") as file:
        return dict(file)


@pytest.mark.slow
def test_a_training_killed_at_any_step_ends_in_the_same_weights(tmp_path):
    """Dropout, augmentation, batch statistics, momentum, schedule and best epoch included."""
    _train(tmp_path / "undisturbed", 0)
    kills = np.random.default_rng().integers(1, [STEPS - 5, 5])  # another at every run of the test
    for step in kills:
        _train(tmp_path / "killed", step)
    _train(tmp_path / "killed", 0)
    undisturbed, killed = _end(tmp_path / "undisturbed"), _end(tmp_path / "killed")
    assert undisturbed.keys() == killed.keys()
    for name in undisturbed:
        message = f"{name}, killed after {kills} steps"
        np.testing.assert_array_equal(killed[name], undisturbed[name], err_msg=message)
