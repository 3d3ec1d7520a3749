"""--quantization-aware-epochs: a phase of training under fake quantization, and its refusals."""

import json

import keras
import numpy as np
import pytest

from letkd_keras.export.student_folder import provenance_of
from letkd_keras.functional.quantization_aware_copy import is_quantization_aware
from letkd_keras.recipes import digits
from letkd_keras.recipes.experiments.experiment import Experiment
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.steps import student as step
from letkd_keras.recipes.trainings import training_folder

SMALL = [
    *("--image-size", "16", "--train-examples", "40", "--test-examples", "30"),
    *("--batch-size", "20"),
    *("--teacher", "resnet8", "--student", "resnet8", "--teacher-epochs", "1", "--epochs", "1"),
]


def _experiment(*options):
    return experiment_of(digits.parse([*SMALL, *options]), digits.SETTINGS)


def test_the_student_is_trained_in_float_and_then_under_fake_quantization(tmp_path, monkeypatch):
    # The table of costs has tests of its own, and takes seconds.
    monkeypatch.setattr("letkd_keras.recipes.exporting.costs", lambda *args: ([], 0))
    options = ["--methods", "letkd2+kd", "--templates", "16", "--formats", "tflite-int8"]
    # A student of four steps has classes that int8 cannot tell apart.
    longer = ["--train-examples", "400", "--test-examples", "200"]
    longer += ["--teacher-epochs", "3", "--epochs", "6"]
    phase = ["--quantization-aware-epochs", "2", "--out", str(tmp_path / "run")]
    report = digits.main([*SMALL, *longer, *options, *phase])
    training = tmp_path / "run" / "letkd2+kd" / "seed0"
    result, before = (
        training_folder.finished(training),
        training_folder.finished(training / "float"),
    )
    assert (before["epochs"], result["epochs"]) == (6, 2)
    assert result["accuracy_before_quantization"] == before["accuracy_last"]
    assert result["parameters"] == before["parameters"]
    assert result["seconds"] > before["seconds"]
    student, earlier = (
        keras.models.load_model(folder / "student.keras")
        for folder in (training, training / "float")
    )
    assert not is_quantization_aware(student)
    assert [layer.name for layer in student.layers] == [layer.name for layer in earlier.layers]
    pairs = zip(student.trainable_weights, earlier.trainable_weights, strict=True)
    assert all(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)
    assert provenance_of(training / "float" / "student.keras")["run"] == "run"
    assert report["exported"]["tflite-int8"]["bytes"] > 10_000
    text = (tmp_path / "run" / "report.md").read_text()
    assert "Then 2 epochs under fake quantization" in text
    # Its settings are in the run folder.
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    schedule = Experiment.from_config(config).quantization_aware_schedule
    assert (schedule.epochs, schedule.schedule) == (2, "cosine")
    assert schedule.learning_rate == pytest.approx(0.05 / 100)


def test_an_interrupted_phase_continues_from_the_trained_student(tmp_path, monkeypatch):
    options = ["--methods", "student", "--formats", "tflite"]
    experiment = prepare(_experiment(*options, "--quantization-aware-epochs", "1"))
    trained, train = [], step.train

    def interrupted(model, data, schedule, *args, **kwargs):
        trained.append(schedule)
        if schedule == experiment.quantization_aware_schedule and trained.count(schedule) == 1:
            raise KeyboardInterrupt
        return train(model, data, schedule, *args, **kwargs)

    monkeypatch.setattr(step, "train", interrupted)
    arguments = (experiment, "student", 0, None, None, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        step.train_student(*arguments)
    step.train_student(*arguments)
    phase = experiment.quantization_aware_schedule
    assert trained == [experiment.student_schedule, phase, phase]


@pytest.mark.parametrize("method", ["fitnet", "simkd", "fitnet_letkd", "crd"])
def test_methods_that_train_more_than_the_student_are_refused(method):
    experiment = _experiment("--methods", "kd", method, "--quantization-aware-epochs", "1")
    with pytest.raises(ValueError, match=f"is for the student alone.*methods with {method}"):
        prepare(experiment)
