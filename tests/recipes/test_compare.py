"""All methods on digits, from the command line to the table; and a grid that was killed."""

import csv
import os
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from letkd_keras.recipes import ablations, compare
from letkd_keras.recipes.experiments import methods

SMALL = [
    *("--data", "digits", "--train-examples", "60", "--test-examples", "40"),
    *("--batch-size", "20", "--teacher-epochs", "1", "--epochs", "2", "--templates", "16"),
    *("--teacher", "resnet8"),
]


def _table(out):
    with (out / "table.csv").open(newline="") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("command", ["compare", "ablations alphas"])
def test_this_process_leaves_gpu_memory_to_the_others(command, monkeypatch):
    module, *arguments = command.split()
    main = {"compare": compare, "ablations": ablations}[module].main
    monkeypatch.setattr(f"letkd_keras.recipes.{module}.run_in_folder", lambda *args: None)
    variables = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    kept = {name: value for name, value in os.environ.items() if name not in variables}
    monkeypatch.setattr(os, "environ", kept)
    main(arguments)
    assert not variables.keys() & kept.keys()
    main([*arguments, "--jobs", "2"])
    assert variables.items() <= kept.items()


@pytest.mark.slow
def test_every_method_trains_and_leaves_a_student(tmp_path):
    names = [*methods.METHODS, "letkd2+dkd", "letkd1+kd-ls", "crd+kd", "kd+dist"]
    compare.main([*SMALL, "--epochs", "1", "--methods", *names, "--out", str(tmp_path / "grid")])
    table = _table(tmp_path / "grid")
    assert {row["method"]: (row["trials"], row["failed"]) for row in table} == {
        name: ("1", "0") for name in names
    }
    plain = int(table[0]["parameters_plain"])
    kept = {row["method"] for row in table if int(row["parameters"]) > plain}
    assert kept == {
        *("fitnet_layer", "fitnet_letkd", "simkd", "quest", "letkd1", "letkd2"),
        *("letkd2+dkd", "letkd1+kd-ls"),
        *("letkd_i0p0", "letkd_i0", "letkd_i1", "letkd_i0p1", "letkd_i1p0"),
    }
    for name in names:
        student = keras.models.load_model(tmp_path / "grid" / name / "seed0" / "student.keras")
        assert student.output_shape == (None, 10)


@pytest.mark.slow
def test_a_killed_grid_ends_in_the_same_table(tmp_path):
    options = [*SMALL, "--methods", "student", "crd", "letkd2"]
    command = [sys.executable, "-m", "letkd_keras.recipes.compare", *options]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    compare.main([*options, "--out", str(whole)])
    process = subprocess.Popen(
        [*command, "--out", str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # In the middle of CRD, whose memories must come back too.
    while not (killed / "crd" / "seed0" / "state.json").exists():
        assert process.poll() is None, "the grid ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.wait()
    compare.main([*options, "--out", str(killed)])
    assert _table(killed) == _table(whole)
    models = (
        keras.models.load_model(out / "crd" / "seed0" / "student.keras") for out in (killed, whole)
    )
    for weights in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(*weights, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_cells_in_processes_give_the_same_table(tmp_path):
    options = [*SMALL, "--methods", "student", "kd", "letkd2+dkd"]
    compare.main([*options, "--out", str(tmp_path / "one")])
    compare.main([*options, "--jobs", "2", "--out", str(tmp_path / "two")])
    assert _table(tmp_path / "two") == _table(tmp_path / "one")
    assert (tmp_path / "two" / "kd" / "seed0" / "output.txt").exists()
