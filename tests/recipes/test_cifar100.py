import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from letkd_keras import KDLayer
from letkd_keras.data import ImageData, load_cifar
from letkd_keras.recipes import cifar100, pairs


@pytest.fixture
def images(monkeypatch):
    """CIFAR-100 where `LETKD_DATA_DIR` says it is, else noise of its shape."""
    folder = os.environ.get("LETKD_DATA_DIR")
    data = load_cifar("cifar100", folder) if folder else _noise(600, 200)
    monkeypatch.setattr("letkd_keras.data.load_cifar", lambda name, folder=None: data)


def _noise(train, test):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (train + test, 32, 32, 3), dtype="uint8")
    labels = np.arange(train + test) % 100
    return ImageData(
        name="noise",
        x_train=images[:train],
        y_train=labels[:train],
        x_test=images[train:],
        y_test=labels[train:],
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        class_names=tuple(map(str, range(100))),
    )


@pytest.fixture(scope="module")
def teachers():
    """Files of the teachers that pairs before have trained, by name: they cost the most."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("pair", pairs.names("cifar100"))
def test_every_pair_runs_through_to_an_exported_student(pair, images, teachers, tmp_path):
    pair = pairs.find(pair, "cifar100")
    given = ["--teacher", teachers[pair.teacher]] if pair.teacher in teachers else []
    run_dir = tmp_path / "run"
    report = cifar100.main(
        [
            *("--pair", pair.name, "--train-examples", "512", "--test-examples", "100"),
            *("--epochs", "1", "--templates", "64", "--run-dir", str(run_dir), *given),
        ]
    )
    teachers.setdefault(pair.teacher, str(run_dir / "teacher" / "teacher.keras"))
    letkd2 = report["methods"]["letkd2"]
    assert letkd2["published"] == pair.published["letkd2"]
    assert _kd_layers(run_dir) == {
        "kd_penultimate": (64, pair.penultimate_alpha),
        "kd_intermediate": (800, pair.intermediate_alpha),
    }
    assert set(report["exported"]) == {"savedmodel", "tflite"}
    assert {result["agreement"] for result in report["exported"].values()} == {1.0}
    assert json.loads((run_dir / "report.json").read_text()) == report


def _kd_layers(run_dir):
    """Templates and alpha of the KD layers of the student in a run folder."""
    student = keras.models.load_model(run_dir / "letkd2" / "seed0" / "student.keras")
    layers = (layer for layer in student.layers if isinstance(layer, KDLayer))
    return {layer.name: (layer.templates, layer.alpha) for layer in layers}


def test_teacher_and_student_train_as_published(images, tmp_path, monkeypatch):
    experiments = []

    def run(experiment, run_dir, verbose):
        experiments.append(experiment)
        raise KeyboardInterrupt

    monkeypatch.setattr("letkd_keras.recipes.experiment.run", run)
    epochs = ["--epochs", "24", "--teacher-epochs", "240", "--run-dir", str(tmp_path / "run")]
    with pytest.raises(KeyboardInterrupt):
        cifar100.main(["--pair", "wrn40_2-snv1", *epochs])
    teacher, student = experiments[0].teacher_schedule, experiments[0].student_schedule
    assert (teacher.learning_rate, teacher.milestones) == (0.05, (150, 180, 210))
    assert (student.learning_rate, student.milestones) == (0.01, (15, 18, 21))
    assert (student.batch_size, student.momentum, student.weight_decay) == (64, 0.9, 5e-4)


def _refused(*options):
    done = subprocess.run(
        [sys.executable, "-m", "letkd_keras.recipes.cifar100", *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_refusal_is_one_line_and_leaves_no_folder(tmp_path):
    run_dir = tmp_path / "run"
    line = _refused("--pair", "resnet56-resnet2", "--run-dir", str(run_dir))
    assert line.startswith("error: `pair` must be one of wrn40_2-wrn16_2, ")
    assert line.endswith("Did you mean resnet56-resnet20?")
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "letkd"], "`method` must be one of student, kd"),
        (["--epochs", "0"], "`epochs` must be at least 1"),
        (["--teacher", "absent.keras"], "`teacher` must be a .keras file"),
    ],
)
def test_bad_options_are_refused(options, message, images, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        cifar100.main([*options, "--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_data_set_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar100 is not prepared in `data_dir`"):
        cifar100.main(["--data-dir", str(tmp_path), "--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
