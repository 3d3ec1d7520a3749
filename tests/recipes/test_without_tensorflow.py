import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from letkd_keras.data import load_digits
from letkd_keras.data.npz import save_npz
from letkd_keras.export import export_student

PROGRAM = Path(__file__).parents[1] / "programs" / "recipe_without_tensorflow.py"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_the_recipe_runs_where_only_jax_is_and_its_student_is_exported_on_tensorflow(tmp_path):
    data = load_digits().subset(120, 40)
    save_npz(data, tmp_path / "images.npz")
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path / "images.npz", run, "resnet8-resnet8"],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "python -m letkd_keras.export" in done.stderr
    report = json.loads((run / "report.json").read_text())
    assert "jax" in report["versions"]
    trial = report["methods"]["letkd2"]["results"][0]
    assert trial["epochs"] == 2

    student = keras.models.load_model(run / "letkd2" / "seed0" / "student.keras", compile=False)
    x, y = zip(*data.evaluation_batches(64), strict=True)
    logits = np.concatenate([student(batch, training=False) for batch in x])
    accuracy = 100 * np.mean(logits.argmax(-1) == np.concatenate(y))
    assert accuracy == pytest.approx(trial["accuracy_last"], abs=0.01)
    exported = export_student(student, tmp_path / "exported", format="tflite", images=x[0].numpy())
    assert Path(exported.path).exists()
