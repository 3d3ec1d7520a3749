import json
import os
import subprocess
import sys

import keras
import pytest

from letkd_keras.data import load_cifar
from letkd_keras.recipes import cifar100

PAIRS = cifar100.SETTINGS.pairs


@pytest.fixture
def images(cifar100_noise, monkeypatch):
    """CIFAR-100 where `LETKD_DATA_DIR` says it is, otherwise noise of its shape."""
    if folder := os.environ.get("LETKD_DATA_DIR"):
        data = load_cifar("cifar100", folder)
        monkeypatch.setattr("letkd_keras.data.loaders.load_cifar", lambda *_, **__: data)


@pytest.fixture(scope="module")
def teachers():
    """Files of the teachers that earlier pairs have trained, by name: they cost the most."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids=[pair.name for pair in PAIRS])
def test_every_pair_runs_through_to_an_exported_student(pair, images, teachers, tmp_path):
    given = ["--teacher", teachers[pair.teacher]] if pair.teacher in teachers else []
    out = tmp_path / "run"
    report = cifar100.main(
        [
            *("--pair", pair.name, "--train-examples", "512", "--test-examples", "100"),
            *("--epochs", "1", "--templates", "64", "--out", str(out), *given),
        ]
    )
    teachers.setdefault(pair.teacher, str(out / "teacher" / "teacher.keras"))
    assert _kd_layers(out) == {
        "kd_penultimate": (64, pair.penultimate_alpha),
        "kd_intermediate": (800, pair.intermediate_alpha),
    }
    assert set(report["exported"]) == {"savedmodel", "tflite"}
    assert {result["agreement"] for result in report["exported"].values()} == {1.0}
    assert json.loads((out / "report.json").read_text()) == report


def _kd_layers(out):
    """Templates and alpha of the KD layers of the student in a run folder."""
    student = keras.models.load_model(out / "letkd2" / "seed0" / "student.keras")
    return {
        layer.name: (layer.templates, layer.alpha)
        for layer in student.layers
        if layer.name.startswith("kd_")
    }


def _refused(*options):
    done = subprocess.run(
        [sys.executable, "-m", "letkd_keras.recipes.cifar100", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_refusal_is_one_line_and_leaves_no_folder(tmp_path):
    out = tmp_path / "run"
    line = _refused("--pair", "resnet56-resnet2", "--out", str(out))
    assert line.startswith("error: --pair must be one of wrn40_2-wrn16_2, ")
    assert line.endswith("Did you mean resnet56-resnet20?")
    assert not out.exists()


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar100 is not prepared in `data_dir`"):
        cifar100.main(["--data-dir", str(tmp_path), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
