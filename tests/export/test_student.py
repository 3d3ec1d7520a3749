import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from letkd_keras.distillers import KD
from letkd_keras.export import export_student, fold, formats
from letkd_keras.export import student as exporting
from letkd_keras.export.cost_report import without_kd_layers
from letkd_keras.export.verification import ExportMismatch, reload_outputs


def _writing(write):
    return formats.Format("student.tflite", "tflite", write, 1e-4, 1)


@pytest.mark.parametrize("name", ["savedmodel", "tflite", "onnx"])
def test_artifact_gives_the_students_logits(student, images, tmp_path, name):
    result = export_student(student, tmp_path, format=name, images=images)
    assert result.path == tmp_path / formats.find(name).file_name
    assert result.images == 6
    assert result.agreement == 1
    assert result.max_difference < 1e-4
    assert [entry.name for entry in tmp_path.iterdir()] == [result.path.name]
    assert result.bytes == sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    parameters = sum(int(np.prod(weight.shape)) for weight in student.weights)
    assert 4 * 0.9 * parameters < result.bytes < 4 * parameters + 600_000


def test_savedmodel_takes_any_batch_and_holds_each_variable_once(student, tmp_path):
    path = export_student(student, tmp_path).path
    loaded = tf.saved_model.load(path)
    for batch in (1, 3):
        logits = loaded.signatures["serving_default"](image=tf.zeros((batch, 16, 16, 3)))["logits"]
        assert logits.shape == (batch, 5)
    variables = path / "variables" / "variables.data-00000-of-00001"
    values = sum(int(np.prod(weight.shape)) for weight in student.weights)
    assert variables.stat().st_size < 1.2 * 4 * values


def test_distilling_model_file_and_run_folder_export_the_same_student(student, images, tmp_path):
    run = tmp_path / "run"
    place = run / "letkd2" / "seed7"
    place.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"export_method": "letkd2", "seed": 7}))
    student.save(place / "student.keras")
    distilling = KD(keras.models.clone_model(student), student)
    distilling.save(tmp_path / "whole.keras")
    expected = np.asarray(student(images))
    files = [tmp_path / "whole.keras", place / "student.keras", run, str(place)]
    for number, model in enumerate([distilling, *files]):
        out = tmp_path / str(number)
        result = export_student(model, out, format="tflite", images=images)
        assert result.parameters == fold(student).count_params()
        logits = reload_outputs("tflite", result.path, images)
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_exporting_again_replaces_what_was_there(student, tmp_path):
    first = export_student(student, tmp_path).path
    (first / "stale").write_text("")
    export_student(student, tmp_path)
    assert not (first / "stale").exists()
    assert (first / "saved_model.pb").exists()


def test_what_computes_something_else_is_refused_and_not_written(student, tmp_path, monkeypatch):
    other = keras.models.clone_model(student)
    weights = student.get_weights()
    weights[0] = weights[0] * 1.01
    other.set_weights(weights)
    wrong = _writing(lambda _, path, options: right(other, path))
    right = formats.find("tflite").write
    monkeypatch.setattr(formats, "find", lambda name: wrong)
    with pytest.raises(ExportMismatch, match="differs from the student by"):
        export_student(student, tmp_path, format="tflite")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_export_leaves_nothing(student, tmp_path, monkeypatch):
    def interrupted(_, path, options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "find", lambda name: _writing(interrupted))
    with pytest.raises(KeyboardInterrupt):
        export_student(student, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_garbage_is_not_an_artifact(student, tmp_path, monkeypatch):
    garbage = _writing(lambda _, path, options: path.write_bytes(b"no"))
    monkeypatch.setattr(formats, "find", lambda name: garbage)
    with pytest.raises(ExportMismatch, match="cannot be reloaded in a fresh process"):
        export_student(student, tmp_path, format="tflite")
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_lists_those_that_exist(student, tmp_path):
    with pytest.raises(ValueError, match=r"`format` must be one of savedmodel, tflite.*'caffe'"):
        export_student(student, tmp_path, format="caffe")


def test_path_that_cannot_be_written(student, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"`path` must be a folder that can be written"):
        export_student(student, tmp_path / "file")


def test_unbuilt_model(tmp_path):
    with pytest.raises(ValueError, match="`model` must be built"):
        export_student(keras.Sequential([keras.layers.Dense(3)]), tmp_path)


def test_what_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="`model` must be a functional"):
        export_student(3, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"must be a \.keras file or a run folder"):
        export_student(tmp_path / "absent.keras", tmp_path)
    (tmp_path / "broken.keras").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"whole \.keras file"):
        export_student(tmp_path / "broken.keras", tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no trained student"):
        export_student(tmp_path, tmp_path)


def test_images_of_another_shape(student, tmp_path):
    with pytest.raises(ValueError, match=r"`images` must be of the shape.*\(2, 8, 8, 3\)"):
        export_student(student, tmp_path, images=np.zeros((2, 8, 8, 3)))


def test_a_folded_model_and_one_without_kd_layers_are_students(student, images, tmp_path):
    folded = fold(student, images=images)
    result = export_student(folded, tmp_path / "folded", "tflite", images=images)
    assert result.parameters == folded.count_params()
    plain = without_kd_layers(student)
    result = export_student(plain, tmp_path / "plain", "tflite", images=images)
    assert result.parameters < folded.count_params()
    logits = reload_outputs("tflite", result.path, images)
    np.testing.assert_allclose(logits, plain(images), atol=1e-5)


def test_a_built_sequential_is_a_student(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)], name="small"
    )
    assert exporting.export_student(model, tmp_path, format="tflite").agreement == 1


def test_untrained_batch_norm_is_exported_with_a_warning(tmp_path, caplog):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization(name="fresh")(keras.layers.Conv2D(3, 1)(inputs))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    assert export_student(model, tmp_path, format="tflite").agreement == 1
    assert "seen no data: ['fresh']" in caplog.text
