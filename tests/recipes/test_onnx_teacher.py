"""--teacher FILE.onnx: a teacher that was trained outside of Keras."""

import json

import pytest
from onnx_files import residual_network

from letkd_keras.recipes import digits
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.preparation import prepare

SMALL = [
    *("--image-size", "16", "--train-examples", "40", "--test-examples", "30"),
    *("--batch-size", "20", "--templates", "8", "--subclasses", "2", "--epochs", "1"),
]


@pytest.fixture
def file(tmp_path):
    return residual_network(tmp_path / "own.onnx", size=16)


def test_its_layers_are_resolved_and_a_student_of_such_a_file_is_refused(file):
    options = [*SMALL, "--teacher", str(file), "--student", "resnet8"]
    teacher = prepare(experiment_of(digits.parse(options), digits.SETTINGS)).teacher
    assert (teacher.penultimate_layer, teacher.intermediate_layer) == (
        "penultimate",
        "intermediate",
    )
    assert len(teacher.fingerprint) == 64
    options = [*SMALL, "--teacher", "resnet8", "--student", str(file)]
    with pytest.raises(ValueError, match="`student` must be a network of Keras layers"):
        prepare(experiment_of(digits.parse(options), digits.SETTINGS))


@pytest.mark.parametrize("classes", [[], ["--classes", "5"]], ids=["as it is", "with a new head"])
def test_it_is_not_fine_tuned(file, classes):
    options = [*SMALL, *classes, "--teacher", str(file), "--student", "resnet8"]
    options += ["--fine-tune-epochs", "2"]
    expected = r"`fine_tune_epochs` must be 0 for .* ONNX file.*fine_tune_epochs=2 with own\.onnx"
    with pytest.raises(ValueError, match=expected):
        prepare(experiment_of(digits.parse(options), digits.SETTINGS))


def test_the_scale_of_its_pixels_is_asked_for(file, caplog):
    options = [*SMALL, "--teacher", str(file), "--student", "resnet8"]
    prepare(experiment_of(digits.parse(options), digits.SETTINGS))
    assert "own.onnx gets the pixels as --pixels scales them" in caplog.text
    caplog.clear()
    options += ["--teacher-pixels", "0..1"]
    prepare(experiment_of(digits.parse(options), digits.SETTINGS))
    assert "--teacher-pixels" not in caplog.text


def test_a_file_that_does_not_exist_is_named(tmp_path):
    options = [*SMALL, "--teacher", str(tmp_path / "none.onnx"), "--student", "resnet8"]
    with pytest.raises(FileNotFoundError, match=r"must be an \.onnx file or the name of a network"):
        prepare(experiment_of(digits.parse(options), digits.SETTINGS))


@pytest.mark.slow
def test_it_gets_a_head_and_teaches(file, tmp_path, monkeypatch):
    # The table of costs has tests of its own, and takes seconds.
    monkeypatch.setattr("letkd_keras.recipes.exporting.costs", lambda *args: ([], 0))
    run = tmp_path / "run"
    options = [*SMALL, "--teacher", str(file), "--student", "resnet8", "--out", str(run)]
    options += ["--methods", "letkd2+dkd", "--head-epochs", "1", "--formats", "tflite"]
    digits.main(options)
    assert (run / "letkd2+dkd" / "seed0" / "student.keras").is_file()
    assert json.loads((run / "config.json").read_text())["teacher"]["file"] == str(file)
