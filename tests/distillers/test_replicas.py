import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("train_on_replicas.py")


def _train(devices, folder):
    file = folder / f"{devices}.npz"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(devices), str(file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(file) as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_two_replicas_train_as_one_device_at_the_same_batch(tmp_path):
    """Three steps: with batch statistics over all replicas only roundings differ."""
    one, two = _train(1, tmp_path), _train(2, tmp_path)
    assert (one.pop("replicas"), two.pop("replicas")) == (1, 2)
    assert one.keys() == two.keys()
    assert {"log loss", "log task_loss", "log kl_penultimate", "log kl_intermediate"} <= one.keys()
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=2e-5, atol=2e-6, err_msg=name)
