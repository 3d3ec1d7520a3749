"""The digits recipe from end to end, small, and what it refuses."""

import json
import re
import shutil
from functools import partial
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from PIL import Image

from letkd_keras.commands.run_folder import RunFolder
from letkd_keras.commands.terminal import plain_text
from letkd_keras.export import ExportMismatch
from letkd_keras.export.student_folder import find_student
from letkd_keras.prototypes import Prototypes
from letkd_keras.recipes import digits
from letkd_keras.recipes.experiments.experiment import Experiment
from letkd_keras.recipes.steps import student, teacher
from letkd_keras.recipes.steps.prototypes import prototypes_of
from letkd_keras.recipes.trainings import training_folder

SMALL = [
    *("--train-examples", "40", "--batch-size", "20", "--methods", "letkd2+dkd"),
    *("--teacher", "resnet8", "--teacher-epochs", "1", "--epochs", "1", "--formats", "tflite"),
]
METHOD = "letkd2+dkd"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    digits.main([*SMALL, "--out", str(folder)])
    return folder


def test_the_run_folder_can_be_read(out):
    report = json.loads((out / "report.json").read_text())
    assert report["pair"] == "resnet8-resnet8"
    assert report["layers"]["student"]["intermediate"] == "intermediate"
    row = report["methods"][METHOD]
    # 64 penultimate and 8 x 10 intermediate templates on 64 channels, without the plain student.
    layers = sum(2 * 64 * templates + 2 * templates + 2 + 2 * templates for templates in (64, 80))
    assert row["parameters"] - row["parameters_plain"] == layers
    assert 0 <= row["accuracy_last_mean"] <= row["accuracy_best_mean"] <= 100
    text = (out / "report.md").read_text()
    assert "| letKD-2 + DKD |" in text and "| tflite | `exported/student.tflite` |" in text
    assert "the teacher's penultimate layer `penultimate`" in text
    assert Image.open(out / "curves.png").width > 500
    sizes = report["sizes"]
    assert sizes["student_with_kd_layers"]["method"] == METHOD
    assert sizes["student_with_kd_layers"]["parameters"] > sizes["teacher"]["parameters"]
    assert "## Sizes of the networks" in text
    assert [row["class"] for row in report["classes"]] == [str(digit) for digit in range(10)]
    assert sum(row["images"] for row in report["classes"]) == report["test_examples"]
    right = sum(row["images"] * row["student"] for row in report["classes"])
    assert right / report["test_examples"] == pytest.approx(row["accuracy_last_mean"])
    assert "## Classes: resnet8 by letKD-2 + DKD" in text
    assert Image.open(out / "confusion.png").width > 400
    assert [row["form"] for row in report["costs"]] == ["plain", "trained", "folded"]
    parameters = [row["params"] for row in report["costs"]]
    assert parameters[1] > parameters[2] > parameters[0]
    assert "## Size and latency of the student" in text and "| folded | tflite |" in text
    assert f"on {report['test_examples']} of the {report['test_examples']} test images" in text
    assert Image.open(out / "costs.png").width > 500
    assert (out / METHOD / "seed0" / "metrics.csv").exists()
    assert "training the student resnet8" in (out / "log.txt").read_text()


def test_what_is_shown_fits_80_columns(out):
    shown = plain_text((out / "report.md").read_text(), "run", 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "Accuracy and loss by epoch: run/curves.png" in shown
    assert all(ord(character) < 0x2190 for character in shown)
    log = (out / "log.txt").read_text()
    assert "CostRow" not in log and "epoch 1/1, loss " in log


def test_teacher_and_prototypes_belong_together(out):
    teacher = keras.models.load_model(out / "teacher" / "teacher.keras")
    Prototypes.load(out / "prototypes.npz").check_teacher(teacher)
    assert not (out / "prototypes.work").exists()


def test_the_rest_of_an_interrupted_removal_is_removed(out, tmp_path, unexported):
    copy = shutil.copytree(out, tmp_path / "copy")
    (RunFolder(copy / "prototypes.work", {}).path / ".steps.0123abcd.letkd").mkdir()
    digits.main([*SMALL, "--methods", METHOD, "--out", str(copy)])
    assert not (copy / "prototypes.work").exists()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((30, 8), "must have 30 penultimate templates. Received: 64"),
        ((64, 4), "must have 40 intermediate templates. Received: 80"),
    ],
)
def test_prototypes_of_other_numbers_are_refused(numbers, message, out):
    teacher = keras.models.load_model(out / "teacher" / "teacher.keras")
    data = SimpleNamespace(num_classes=10)
    experiment = SimpleNamespace(templates=numbers[0], subclasses=numbers[1], data=data)
    experiment.templates_of = partial(Experiment.templates_of, experiment)
    with pytest.raises(ValueError, match=rf"{message} in prototypes.npz. Delete prototypes.npz"):
        prototypes_of(experiment, teacher, out, ("penultimate", "intermediate"))


def test_the_student_is_exported_and_verified(out):
    assert find_student(out) == out / METHOD / "seed0" / "student.keras"
    exported = json.loads((out / "report.json").read_text())["exported"]
    assert set(exported) == {"tflite"}
    for result in exported.values():
        assert result["agreement"] == 1
        assert result["max_difference"] < 1e-4
        assert (out / result["path"]).exists()
    card = json.loads((out / "exported" / "card.json").read_text())
    assert set(card["artifacts"]) == {"tflite"}
    assert card["training"]["config"]["pair"] == "resnet8-resnet8"


@pytest.fixture
def unexported(monkeypatch):
    """A run without export, table of costs and pictures of classes, which take seconds."""
    monkeypatch.setattr("letkd_keras.recipes.exporting.costs", lambda *args: ([], 0))
    monkeypatch.setattr("letkd_keras.recipes.exporting.export", lambda experiment, folder: {})
    monkeypatch.setattr("letkd_keras.recipes.reports.class_report.of_run", lambda *args: ([], ""))


def test_the_same_command_again_only_reports(out, monkeypatch, unexported):
    def never(*args, **kwargs):
        raise AssertionError("trained again")

    for step in ("teacher", "student"):
        monkeypatch.setattr(f"letkd_keras.recipes.steps.{step}.train", never)
    before = json.loads((out / "report.json").read_text())
    report = digits.main([*SMALL, "--out", str(out)])
    assert report == json.loads((out / "report.json").read_text())
    assert report["methods"] == before["methods"]


@pytest.mark.parametrize("error", [ExportMismatch, ValueError])
def test_a_refused_export_is_an_error_after_the_report(
    out, tmp_path, monkeypatch, unexported, error
):
    def refuse(experiment, folder):
        raise error("onnx: no such layer")

    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / "report.json").unlink()
    monkeypatch.setattr("letkd_keras.recipes.exporting.export", refuse)
    with pytest.raises(error, match="onnx: no such layer"):
        digits.main([*SMALL, "--out", str(copy)])
    assert json.loads((copy / "report.json").read_text())["exported"] == {}


@pytest.fixture
def diverging(monkeypatch):
    """Methods whose trainings diverge, and what each training is to advise then."""
    names, advice, train = set(), {}, student.train

    def diverge(model, data, schedule, folder, **options):
        method = folder.parent.name
        advice[method] = options["remedies"]
        if method not in names:
            return train(model, data, schedule, folder, **options)
        folder.mkdir(parents=True, exist_ok=True)
        raise FloatingPointError(f"The loss is not finite in epoch 2. {options['remedies']}")

    for step in (student, teacher):
        monkeypatch.setattr(step, "train", diverge)
    return names, advice


def test_a_training_that_diverges_is_an_error_after_the_report_of_the_others(
    out, tmp_path, diverging, caplog
):
    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / "report.json").unlink()
    methods = ["--methods", METHOD, "kd", "dkd"]  # of which the last one is exported
    names, advice = diverging
    names |= {"kd", "dkd"}
    with pytest.raises(FloatingPointError) as error:
        digits.main([*SMALL, *methods, "--out", str(copy)])
    assert str(error.value) == (
        "KD, seed 0; DKD, seed 0: The loss is not finite in epoch 2. Give --learning-rate 0.005 "
        "(a tenth), or --clip-norm 1, or --optimizer adamw --learning-rate 0.001, with another "
        f"--out. The other students and their report.md are in {copy}."
    )
    assert advice["kd"] == advice["dkd"]
    assert "DKD, seed 0: The loss is not finite" in caplog.text
    report = json.loads((copy / "report.json").read_text())
    trained = {name: (row["trials"], row["failed"]) for name, row in report["methods"].items()}
    assert trained == {METHOD: (1, 0), "kd": (0, 1), "dkd": (0, 1)}
    assert report["exported"] == {} and report["classes"] == []
    assert "- DKD, seed 0: `The loss is not finite in epoch 2. Give" in (
        (copy / "report.md").read_text()
    )
    # Where all diverge there is nothing to report.
    names |= {METHOD}
    shutil.rmtree(copy / METHOD)
    shutil.rmtree(copy / "kd")
    (copy / "report.json").unlink()
    with pytest.raises(FloatingPointError, match=r"^letKD-2 \+ DKD, seed 0; KD, seed 0: The loss"):
        digits.main([*SMALL, "--methods", METHOD, "kd", "--out", str(copy)])
    assert not (copy / "report.json").exists()


def test_a_training_that_diverged_is_tried_again(out, tmp_path, diverging, unexported):
    copy = shutil.copytree(out, tmp_path / "copy")
    names, _ = diverging
    names |= {"kd"}
    command = [*SMALL, "--methods", "kd", METHOD, "--out", str(copy)]
    with pytest.raises(FloatingPointError):
        digits.main(command)
    names.clear()
    report = digits.main(command)
    assert report["methods"]["kd"]["trials"] == 1 and report["methods"]["kd"]["failed"] == 0
    names |= {"new"}
    with pytest.raises(
        FloatingPointError, match=r"2\. Give --teacher-learning-rate 0\.005 \(a ten"
    ):
        digits.main([*SMALL, "--out", str(tmp_path / "new")])


def test_other_settings_are_refused(out):
    before = (out / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"other settings: .*seed: 0 before, 1 now"):
        digits.main([*SMALL, "--seed", "1", "--out", str(out)])
    with pytest.raises(ValueError, match=r'data.pixels: null before, "0..1" now'):
        digits.main([*SMALL, "--pixels", "0..1", "--out", str(out)])
    assert (out / "config.json").read_bytes() == before


def test_a_student_is_trained_again_from_the_teacher_and_prototypes(out, tmp_path, unexported):
    copy = shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(copy / METHOD)
    digits.main([*SMALL, "--out", str(copy)])
    models = (
        keras.models.load_model(folder / METHOD / "seed0" / "student.keras")
        for folder in (copy, out)
    )
    for weights in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(*weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["teacher/teacher.keras", "teacher/result.json", f"{METHOD}/seed0/result.json"]
)
def test_a_damaged_file_is_named_with_the_remedy(name, out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(name)} is damaged or missing. Delete .*"):
        digits.main([*SMALL, "--out", str(copy)])


def test_students_of_another_teacher_are_refused(out, tmp_path, unexported):
    copy = shutil.copytree(out, tmp_path / "copy")
    training = copy / METHOD / "seed0"

    def refused(methods):
        students = re.escape(str(training.parent))
        with pytest.raises(ValueError, match=rf"students in {students} were .* delete these"):
            digits.main([*SMALL, "--methods", *methods, "--out", str(copy)])

    teacher = training_folder.finished(copy / "teacher")
    training_folder.write_checked_json(
        copy / "teacher" / "result.json", {**teacher, "model_sha256": "0"}
    )
    refused([METHOD])
    shutil.rmtree(copy / "teacher")
    # A student that is not finished; and the report would have it beside those of this start.
    (training / "result.json").unlink()
    refused(["student"])
    assert not (copy / "teacher").exists()
    # Folders of earlier versions do not say which teacher it was.
    shutil.copytree(out / "teacher", copy / "teacher")
    shutil.copy(out / METHOD / "seed0" / "result.json", training)
    (training / "teacher.json").unlink()
    digits.main([*SMALL, "--out", str(copy)])


def test_the_student_alone_has_no_teacher(out, tmp_path, monkeypatch):
    copy = shutil.copytree(out / "teacher", tmp_path / "teacher").parent
    monkeypatch.setattr(student, "_train_student", lambda *args: None)
    monkeypatch.setattr(training_folder, "check_student", lambda *args: None)
    for method in ("student", "kd"):
        student.train_student(
            SimpleNamespace(quantization_aware_schedule=None), method, 0, None, None, copy
        )
    assert [file.parts[-3] for file in copy.glob("*/seed0/teacher.json")] == ["kd"]


def test_a_method_is_added_to_the_run(out, tmp_path, unexported, caplog):
    copy = shutil.copytree(out, tmp_path / "copy")
    options = [*SMALL, "--methods", METHOD, "kd", "--out", str(copy)]
    report = digits.main(options)
    assert list(report["methods"]) == ["kd", METHOD]
    assert json.loads((copy / "config.json").read_text())["export_method"] == "kd"
    (warning,) = [record.getMessage() for record in caplog.records if "place" in record.message]
    assert warning.startswith(f"{copy / 'exported'} will have the student by kd, the last of")
    assert f"python -m letkd_keras.export {copy / METHOD / 'seed0'} --out DIR" in warning
    caplog.clear()
    # A start with some of the methods reports all that the folder has.
    report = digits.main([*SMALL, "--methods", "kd", "--out", str(copy)])
    assert list(report["methods"]) == ["kd", METHOD]
    assert report["sizes"]["student_with_kd_layers"]["method"] == METHOD
    text = (copy / "report.md").read_text()
    assert "seeds from 0; 64 penultimate templates, 8 sub-classes of each class." in text
    assert "the student's intermediate layer `intermediate`" in text
    assert "in place of" not in caplog.text


def test_an_interrupted_fit_with_other_settings_is_named_with_the_remedy(out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / "prototypes.npz").unlink()
    RunFolder(copy / "prototypes.work", {"seed": 1})
    remedy = r"prototypes\.work has an .* settings: .*seed: 1 before, 0 now.* Delete .*\.work and"
    with pytest.raises(ValueError, match=remedy):
        digits.main([*SMALL, "--out", str(copy)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "letkd3"], "`methods` must be of"),
        (["--train-examples", "3"], "`train_examples` must be between 10"),
    ],
)
def test_bad_options_are_refused_before_the_folder_is_made(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        digits.main([*SMALL, *options, "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
