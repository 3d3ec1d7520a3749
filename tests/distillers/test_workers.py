import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from free_ports import free_ports

PROGRAMS = Path(__file__).parents[1] / "programs"


def _start(folder, dies_in=None):
    """Both workers; the second dies in an epoch, if one is named."""
    ports = ",".join(map(str, free_ports(2)))
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return [
        subprocess.Popen(
            [
                *(sys.executable, str(PROGRAMS / "train_on_workers.py"), str(index), ports),
                *(str(folder), *([str(dies_in)] if index and dies_in is not None else [])),
            ],
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"worker{index}.txt").open("w"),
            env=environment,
        )
        for index in range(2)
    ]


@pytest.mark.slow
def test_two_workers_of_which_one_dies_end_as_one_device(tmp_path):
    """Losses and weights, within roundings of float64, after both have been started again."""
    done = subprocess.run(
        [
            *(sys.executable, str(PROGRAMS / "train_on_replicas.py"), "1", "float64", "0", "2"),
            str(tmp_path / "one.npz"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    first, second = _start(tmp_path, dies_in=1)
    try:
        assert second.wait(300) == -9, (tmp_path / "worker1.txt").read_text()[-3000:]
    finally:
        for worker in (first, second):
            worker.kill()
            worker.wait()
    assert not list(tmp_path.glob("worker?.npz"))
    workers = _start(tmp_path)
    try:
        for index, worker in enumerate(workers):
            errors = tmp_path / f"worker{index}.txt"
            assert worker.wait(300) == 0, errors.read_text()[-3000:]
    finally:
        for worker in workers:
            worker.kill()

    with np.load(tmp_path / "one.npz") as file:
        one = dict(file)
    for index in range(2):
        with np.load(tmp_path / f"worker{index}.npz") as file:
            worker = dict(file)
        # The epoch before the death was not trained again.
        assert worker["loss"].shape == (1,)
        np.testing.assert_allclose(worker.pop("loss"), one["log loss"][1:], rtol=1e-6)
        for name, array in worker.items():
            np.testing.assert_allclose(array, one[name], rtol=1e-11, atol=1e-11, err_msg=name)
