"""Ablations on cells that cost nothing, and a probe of a network whose answer is known."""

import csv
import json

import keras
import numpy as np
import pytest
from PIL import Image

from letkd_keras import KDLayer
from letkd_keras.data import ImageData
from letkd_keras.recipes import ablations, methods, pairs, probe, stages
from letkd_keras.recipes.training import finish

SMALL = ["--pair", "digits", "--train-examples", "40", "--batch-size", "20"]


@pytest.fixture
def cells(monkeypatch):
    trained = []

    def student(experiment, taps, method, seed, teacher, prototypes, folder, verbose):
        trained.append((method, experiment.templates, experiment.temperature, seed))
        place = stages.student_folder(folder, method, seed)
        place.mkdir(parents=True, exist_ok=True)
        accuracy = {"accuracy_last": float(experiment.templates), "accuracy_best": 90.0}
        finish(place, {**accuracy, "parameters": 9, "parameters_plain": 7, "seconds": 3.0})

    teacher = {"accuracy_last": 99.0, "parameters": 5000}
    monkeypatch.setattr(stages, "check", lambda experiment: None)
    monkeypatch.setattr(stages, "teacher", lambda *args: (None, teacher))
    monkeypatch.setattr(stages, "prototypes", lambda *args: None)
    monkeypatch.setattr(stages, "student", student)
    # The teacher's file that the grids of a sweep are given.
    monkeypatch.setattr("letkd_keras.recipes.sweep.Network", lambda path: None)
    return trained


def test_the_eight_alphas_are_each_level_alone_and_both():
    settings = [methods.METHODS[name].levels for name in ablations.ALPHAS]
    assert len(set(ablations.ALPHAS)) == 8
    assert settings.count(("intermediate",)) == settings.count(("penultimate",)) == 2
    pair = pairs.find("resnet56-resnet20", "cifar100")
    published = {**pair.published, **pair.published_ablation}
    assert [published[name] for name in ablations.ALPHAS] == [
        *(70.64, 70.80, 71.84, 72.44, 71.70, 72.13, 72.78, 73.27),
    ]


def test_a_sweep_puts_the_values_side_by_side(cells, tmp_path):
    out = tmp_path / "sweep"
    ablations.main(
        ["templates", *SMALL, "--values", "16", "64", "--trials", "2", "--out", str(out)]
    )
    assert cells == [("letkd1", k, 1.0, seed) for k in (16, 64) for seed in (0, 1)]
    text = (out / "sweep.md").read_text()
    assert "| 16 | letKD-1 | 2 | 16.00 ± 0.00 |" in text
    assert "| 64 | letKD-1 | 2 | 64.00 ± 0.00 |" in text
    with (out / "sweep.csv").open(newline="") as file:
        assert [row["templates"] for row in csv.DictReader(file)] == ["16", "64"]
    assert Image.open(out / "sweep.png").width > 500
    assert (out / "templates-16" / "table.md").exists()


def test_temperatures_may_be_fractions_and_templates_not(cells, tmp_path):
    ablations.main(["temperature", *SMALL, "--values", "0.5", "--out", str(tmp_path / "t")])
    assert cells == [("letkd1", 64, 0.5, 0)]
    with pytest.raises(ValueError, match="`values` must be whole numbers"):
        ablations.main(["subclasses", *SMALL, "--values", "0.5", "--out", str(tmp_path / "s")])
    with pytest.raises(ValueError, match="`values` must name"):
        ablations.main(["subclasses", *SMALL, "--out", str(tmp_path / "s")])
    assert not (tmp_path / "s").exists()


@keras.saving.register_keras_serializable("letkd_keras_tests")
class Sign(KDLayer):
    """Puts out what tells the classes apart, whatever it reads."""

    def call(self, inputs, training=None):
        return keras.ops.sign(inputs) + 0.1 * keras.ops.tanh(inputs)


def _data():
    """Two classes of constant images whose sign is the class; their size says nothing."""
    r = np.random.default_rng(0)
    labels = np.arange(80) % 2
    values = np.where(labels, 1, -1) * 10 ** r.uniform(-3, 3, 80)
    images = np.broadcast_to(values[:, None, None, None], (80, 4, 4, 3)).astype("float32")
    return ImageData("signs", images[:60], labels[:60], images[60:], labels[60:], 0, 1, ("-", "+"))


def test_the_probe_reads_before_and_behind_the_layer(monkeypatch):
    data = _data()
    monkeypatch.setattr(
        ImageData,
        "evaluation_batches",
        lambda self, size, split: [(getattr(self, f"x_{split}"), getattr(self, f"y_{split}"))],
    )
    inputs = keras.Input((4, 4, 3))
    x = Sign(4, name="kd_intermediate")(inputs)
    logits = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    accuracies = probe.lda_accuracies(keras.Model(inputs, logits), data)
    assert accuracies["x_hat"] == 100
    assert accuracies["x"] < 100  # sizes over six decades drown the sign in one mean


def test_a_probe_is_written_beside_what_it_is_of(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "lda_accuracies", lambda student, data: {"x": 40.0, "x_hat": 50.0})
    monkeypatch.setattr(keras.models, "load_model", lambda *args, **kwargs: None)
    out = tmp_path / "probe"
    ablations.main(["probe", *SMALL, "--out", str(out)])
    assert "| letKD-2 | 1 | 40.00 | - | 50.00 | - |" in (out / "probe.md").read_text()
    rows = json.loads((out / "probe.json").read_text())
    assert [row["method"] for row in rows] == ["letkd_i0p0", "letkd2"]
