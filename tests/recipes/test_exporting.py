import importlib.util
import shutil
from types import SimpleNamespace

import keras
import pytest
from small_image_data import image_data

from letkd_keras.commands.run_folder import RunFolder
from letkd_keras.recipes import exporting
from letkd_keras.recipes.trainings import training_folder


@pytest.fixture
def experiment():
    return SimpleNamespace(
        formats=("savedmodel",), export_method="kd", methods=("kd",), data=image_data(), seed=0
    )


def _run_folder(path, interpolation="bilinear"):
    """A run folder with a student that resizes its images."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Resizing(8, 8, interpolation=interpolation)(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
    student = keras.Model(inputs, keras.layers.Dense(5)(x), name="own")
    folder = RunFolder(path, {"export_method": "kd", "seed": 0}).path
    (folder / "kd" / "seed0").mkdir(parents=True)
    student.save(folder / "kd" / "seed0" / "student.keras")
    return folder


def _warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_images_with_labels_are_exported_on_tensorflow(experiment, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(exporting, "export_bundle", lambda *_, **options: options)
    data = experiment.data
    experiment.data = SimpleNamespace(labelled=lambda: data)
    options = exporting.export(experiment, tmp_path)
    assert options["data_name"] == "blocks, made for tests"
    assert len(options["labels"]) == 30
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with caplog.at_level("INFO"):
        assert exporting.export(experiment, tmp_path) == {}
    command = f"python -m letkd_keras.export {tmp_path} --formats savedmodel --out exported"
    assert f"KERAS_BACKEND=tensorflow {command}" in caplog.text


def test_only_an_exported_student_of_another_method_is_warned_about(experiment, tmp_path, caplog):
    for earlier, is_exported, count in (("kd", 1, 0), ("letkd2", 0, 0), ("letkd2", 1, 1)):
        folder = tmp_path / f"{earlier}{is_exported}"
        (folder / ("exported" if is_exported else "kd")).mkdir(parents=True)
        exporting.warn_about_another(experiment, earlier, folder)
        assert len(_warnings(caplog)) == count


def test_no_costs_without_what_runs_tflite(experiment, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "tensorflow" or None)
    assert exporting.costs(experiment, tmp_path) == ([], 0)
    assert "no table of costs: The format tflite needs ai-edge-litert" in caplog.text


def test_no_costs_of_a_student_that_tflite_cannot_convert(experiment, tmp_path, caplog):
    assert exporting.costs(experiment, _run_folder(tmp_path / "run", "bicubic")) == ([], 30)
    (warning,) = _warnings(caplog)
    start = "the table of costs lacks the forms as trained, folded: tflite of 'own' could"
    assert warning.startswith(start)


def test_no_costs_of_a_student_that_cannot_be_folded(experiment, tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise ValueError("layers of the same names")

    monkeypatch.setattr(exporting, "forms_of", refuse)
    assert exporting.costs(experiment, _run_folder(tmp_path / "run")) == ([], 0)
    assert _warnings(caplog) == ["no table of costs: layers of the same names"]


def test_costs_of_the_forms_that_can_be_measured(experiment, tmp_path, monkeypatch, caplog):
    def measure(model, form, format, **options):
        if form == "trained":
            raise ValueError("no such operation")
        return form

    monkeypatch.setattr(exporting, "measure", measure)
    assert exporting.costs(experiment, _run_folder(tmp_path / "run")) == (["folded"], 30)
    (warning,) = _warnings(caplog)
    assert warning == "the table of costs lacks the forms as trained: no such operation"


def test_the_student_alone_of_an_earlier_start_is_measured_too(experiment, tmp_path, monkeypatch):
    folder = _run_folder(tmp_path / "run")
    alone = shutil.copytree(folder / "kd" / "seed0", folder / "student" / "seed0")
    given = []

    def stop(student, images, labels, plain):
        given.append(plain)
        raise ValueError("no more is needed")

    monkeypatch.setattr(exporting, "forms_of", stop)
    exporting.costs(experiment, folder)  # it was interrupted
    training_folder.write_checked_json(alone / "result.json", {})
    exporting.costs(experiment, folder)
    assert given[0] is None and given[1].name == "own"
