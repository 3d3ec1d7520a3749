"""The method that CONTRIBUTING adds: its very lines, trained, saved and put into a table."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from letkd_keras.recipes import compare
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.recipe_of_data import settings_of
from letkd_keras.recipes.studies import grid

CLASS, ROW = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(), re.DOTALL
)


@pytest.fixture(scope="module")
def direction():
    scope = {}
    exec(CLASS, scope)
    yield scope["Direction"]
    del keras.saving.get_custom_objects()["my_project>Direction"]


def test_it_is_under_forty_lines():
    assert 15 < len(CLASS.splitlines()) + len(ROW.splitlines()) < 40


def test_it_is_one_minus_the_cosine(direction):
    student, teacher = (_network(channels) for channels in (4, 6))
    layers = {"student_layers": ("map",), "teacher_layers": ("map",)}
    model = direction(teacher, student, weight=0.5, **layers)
    x = np.random.default_rng(0).standard_normal((5, 6, 6, 3)).astype("float32")
    y = np.array([0, 1, 0, 1, 1])
    losses = model.compute_distillation_losses(
        model.compute_student_outputs(x), model.compute_teacher_outputs(x, y)
    )
    maps = [keras.Model(n.inputs, n.get_layer("map").output)(x) for n in (student, teacher)]
    a, b = (np.asarray(m, "float64").mean((1, 2)) for m in maps)
    a = a @ np.asarray(model.adapter.kernel, "float64")
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert float(losses["direction"]) == pytest.approx(1 - cosine.mean(), rel=1e-4)


def _network(channels):
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(channels, 3, name="map")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def test_with_its_row_it_has_a_place_in_the_table(direction, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    exec(ROW, {**vars(methods), "Direction": direction})
    options = compare.parse(
        [
            *("--data", "digits", "--train-examples", "40", "--test-examples", "20"),
            *("--batch-size", "20", "--teacher-epochs", "1", "--epochs", "1"),
            *("--methods", "direction+kd"),
        ]
    )
    experiment = experiment_of(options, settings_of(options))
    (row,) = grid.run(experiment, tmp_path / "grid")
    assert (row["title"], row["trials"]) == ("Direction + KD", 1)
    assert row["parameters"] == row["parameters_plain"]
