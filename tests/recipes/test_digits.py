"""The digits recipe from end to end, small, and what it refuses."""

import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from letkd_keras import Prototypes
from letkd_keras.recipes import digits

SMALL = [
    *("--train-examples", "40", "--batch-size", "20", "--methods", "letkd2"),
    *("--teacher-epochs", "1", "--epochs", "1"),
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    digits.main([*SMALL, "--run-dir", str(folder)])
    return folder


def test_the_run_folder_can_be_read(run_dir):
    report = json.loads((run_dir / "report.json").read_text())
    assert report["pair"] == "resnet20-resnet8"
    letkd2 = report["methods"]["letkd2"]
    # 64 penultimate and 8 x 10 intermediate templates on 64 channels, without the plain student.
    layers = sum(2 * 64 * templates + 2 * templates + 2 + 2 * templates for templates in (64, 80))
    assert letkd2["parameters"] - letkd2["parameters_without_kd_layers"] == layers
    assert 0 <= letkd2["accuracy_last_mean"] <= letkd2["accuracy_best_mean"] <= 100
    text = (run_dir / "report.md").read_text()
    assert "| letKD-2 |" in text and "| tflite | `exported/student.tflite` |" in text
    assert Image.open(run_dir / "curves.png").width > 500
    assert [row["form"] for row in report["costs"]] == ["plain", "trained", "folded"]
    assert (
        report["costs"][1]["params"] > report["costs"][2]["params"] > report["costs"][0]["params"]
    )
    assert "## What the student costs" in text and "| folded | tflite |" in text
    assert Image.open(run_dir / "costs.png").width > 500
    assert json.loads((run_dir / "config.json").read_text())["train_examples"] == 40
    assert "teacher resnet20" in (run_dir / "log.txt").read_text()


def test_prototypes_belong_to_the_teacher_beside_them(run_dir):
    teacher = keras.models.load_model(run_dir / "teacher" / "teacher.keras")
    Prototypes.load(run_dir / "prototypes.npz").check_teacher(teacher)
    assert not (run_dir / "prototypes.work").exists()


def test_what_is_exported_is_the_student_and_verified(run_dir):
    exported = json.loads((run_dir / "report.json").read_text())["exported"]
    assert set(exported) == {"savedmodel", "tflite"}
    for result in exported.values():
        assert result["agreement"] == 1
        assert result["max_difference"] < 1e-4
        assert (run_dir / result["path"]).exists()
    card = json.loads((run_dir / "exported" / "card.json").read_text())
    assert set(card["artifacts"]) == {"savedmodel", "tflite"}
    assert card["training"]["config"]["pair"] == "resnet20-resnet8"


@pytest.fixture
def unmeasured(monkeypatch):
    """A run without its table of costs, which takes seconds."""
    monkeypatch.setattr("letkd_keras.recipes.exporting.costs", lambda experiment, folder: [])


def test_the_same_command_again_only_reports(run_dir, monkeypatch, unmeasured):
    def never(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr("letkd_keras.recipes.stages.train", never)
    before = (run_dir / "report.json").read_text()
    digits.main([*SMALL, "--run-dir", str(run_dir)])
    before, after = json.loads(before), json.loads((run_dir / "report.json").read_text())
    assert after["methods"] == before["methods"]


def test_another_configuration_is_refused_before_anything_is_touched(run_dir):
    with pytest.raises(ValueError, match=r"another configuration \(seed: 0 there, 1 now\)"):
        digits.main([*SMALL, "--seed", "1", "--run-dir", str(run_dir)])


def test_the_student_goes_on_from_the_prototypes_and_teacher_there(run_dir, tmp_path, unmeasured):
    copy = shutil.copytree(run_dir, tmp_path / "copy")
    shutil.rmtree(copy / "letkd2")
    digits.main([*SMALL, "--run-dir", str(copy)])
    ours, theirs = (
        keras.models.load_model(folder / "letkd2" / "seed0" / "student.keras").get_weights()
        for folder in (copy, run_dir)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "letkd3"], "`method` must be one of"),
        (["--trials", "0"], "`trials` must be at least 1"),
        (["--batch-size", "41"], "`batch_size` must be at most the 40"),
        (["--epochs", "0"], "`epochs` must be at least 1"),
        (["--train-examples", "3"], "`train_examples` must be between 10"),
        (["--templates", "2561"], "at most the 2560 feature vectors"),
    ],
)
def test_bad_options_are_refused_before_the_folder_is_made(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        digits.main([*SMALL, *options, "--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
