import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "device_epochs.py"


def _run(backend):
    options = ["--pairs", "resnet8-resnet8", "--steps", "2", "--epochs", "2"]
    return subprocess.run(
        [sys.executable, PROGRAM, *options],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )


def test_another_backend_is_refused():
    done = _run(backend="tensorflow")
    assert done.returncode == 2
    assert "KERAS_BACKEND must be jax. Received: KERAS_BACKEND=tensorflow" in done.stderr


@pytest.mark.slow
def test_the_figures_of_a_pair():
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    done = _run(backend="jax")
    assert done.returncode == 0, done.stderr[-3000:]
    line = json.loads(done.stdout)
    floor = line["loop_student_ms"] + line["loop_teacher_ms"]
    assert line["floor_ratio"] == pytest.approx(line["loop_ms"] / floor, rel=0.01)
    assert line["fit_ratio"] == pytest.approx(line["fit_ms"] / line["loop_ms"], rel=0.01)
    assert line["images_per_s"] == pytest.approx(64 / line["loop_ms"] * 1000, rel=0.01, abs=1)
    assert (line["pair"], line["steps"], line["epochs"]) == ("resnet8-resnet8", 2, 2)
    # The distiller's step has the student's step in it.
    assert line["loop_ms"] > line["loop_student_ms"] > 0
