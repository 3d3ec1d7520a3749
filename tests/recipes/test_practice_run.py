"""A whole run with the options of practitioners together, from the data to the exported student."""

import json

import keras
import numpy as np
import pytest

from letkd_keras.recipes import digits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("practice") / "run"
    digits.main(
        [
            *("--train-examples", "40", "--test-examples", "30", "--batch-size", "20"),
            *("--teacher", "resnet14", "--teacher-epochs", "1", "--student", "resnet8"),
            *("--epochs", "2", "--methods", "letkd2+kd", "--formats", "tflite"),
            *("--optimizer", "adamw", "--schedule", "cosine", "--warm-up-epochs", "0"),
            *("--label-smoothing", "0.1", "--ema", "0.5", "--clip-norm", "5"),
            *("--mixed-precision", "float16", "--class-weights", "balanced", "--growth", "30%"),
            *("--callback", "keras.callbacks:History", "--out", str(folder)),
        ]
    )
    return folder


def test_teacher_and_student_compute_in_half_precision(out):
    for file in ("teacher/teacher.keras", "letkd2+kd/seed0/student.keras"):
        model = keras.models.load_model(out / file)
        assert "float16" in {layer.compute_dtype for layer in model.layers}
        assert {weight.dtype for weight in model.weights} == {"float32"}


def test_the_exported_student_is_in_float32_and_agrees(out):
    report = json.loads((out / "report.json").read_text())
    assert report["exported"]["tflite"]["agreement"] > 0.9
    sizes = report["sizes"]
    added = sizes["student_with_kd_layers"]["parameters"] - sizes["student"]["parameters"]
    assert 0 < added <= 0.3 * sizes["student"]["parameters"]
    student = keras.models.load_model(out / "letkd2+kd" / "seed0" / "student.keras")
    assert student.get_layer("kd_penultimate").templates == report["templates"]
    assert student.get_layer("kd_intermediate").templates == 10 * report["subclasses"]
    assert np.all(np.isfinite(student.get_weights()[0]))
