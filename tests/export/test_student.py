from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from onnx_files import residual_network

from letkd_keras.commands.run_folder import RunFolder
from letkd_keras.distillers import KD
from letkd_keras.export import artifact, export_bundle, export_student, fold, formats
from letkd_keras.export import student as exporting
from letkd_keras.export.comparison import Comparison, ExportMismatch
from letkd_keras.export.cost_report import without_kd_layers
from letkd_keras.export.formats import tflite
from letkd_keras.export.formats.tflite import write_tflite
from letkd_keras.export.loading import load_student
from letkd_keras.export.new_process import reload_outputs
from letkd_keras.files import write_json
from letkd_keras.functional.fingerprint import fingerprint
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.functional.onnx_file import open_onnx
from letkd_keras.precision import dtype_policy


@pytest.fixture
def set_writer(monkeypatch):
    """Replaces what writes the formats by a function `(student, path, options)`."""
    return lambda write: monkeypatch.setattr(formats.Format, "write", lambda _, *args: write(*args))


@pytest.mark.parametrize("name", ["savedmodel", "tflite", "onnx"])
def test_artifact_gives_the_students_logits(student, images, tmp_path, name):
    one_hot = np.eye(5)[np.asarray(student(images)).argmax(axis=-1)]
    result = export_student(student, tmp_path, format=name, images=images, labels=one_hot)
    assert result.path == tmp_path / formats.find(name).file_name
    assert Path(result) == result.path
    assert str(result).startswith(f"{result.path}, {result.bytes:,} bytes, max difference ")
    assert result.accuracy_before == result.accuracy == 1
    assert result.num_images == 6
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


def test_distiller_file_and_run_folder_are_the_same_student(student, images, tmp_path, caplog):
    run = RunFolder(tmp_path / "run", {"export_method": "letkd2", "seed": 7}).path
    folder = run / "letkd2" / "seed7"
    folder.mkdir(parents=True)
    student.save(folder / "student.keras")
    distiller = KD(teacher=keras.models.clone_model(student), student=student)
    distiller.save(tmp_path / "whole.keras")
    expected = np.asarray(student(images))
    files = [tmp_path / "whole.keras", folder / "student.keras", run, str(folder)]
    for model in (distiller, *files):
        np.testing.assert_array_equal(load_student(model)(images), expected)
    caplog.set_level("INFO")
    result = export_student(run, tmp_path / "out", format="tflite", images=images)
    assert f"The student of {run} is {folder / 'student.keras'}" in caplog.messages
    assert result.parameters == fold(student).count_params()
    logits = reload_outputs("tflite", result.path, images)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_a_student_whose_logits_are_not_finite_is_refused_before_anything_is_written(tmp_path):
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.GlobalAveragePooling2D()(inputs)
    classifier = keras.layers.Dense(5, bias_initializer=keras.initializers.Constant(np.nan))
    model = keras.Model(inputs, classifier(features), name="diverged")
    message = "`model` must return finite logits for the images. Received: model='diverged', which"
    with pytest.raises(ValueError, match=message) as error:
        export_student(model, tmp_path, "tflite")
    assert not isinstance(error.value, ExportMismatch)
    assert not any(tmp_path.iterdir())


def test_exporting_again_replaces_what_was_there(student, tmp_path):
    first = export_student(student, tmp_path).path
    (first / "stale").write_text("")
    export_student(student, tmp_path)
    assert not (first / "stale").exists()
    assert (first / "saved_model.pb").exists()


def test_what_computes_something_else_is_refused_and_not_written(student, tmp_path, set_writer):
    other = keras.models.clone_model(student)
    weights = student.get_weights()
    weights[0] = weights[0] * 1.01
    other.set_weights(weights)
    set_writer(lambda _, path, options: write_tflite(other, path, options))
    with pytest.raises(ExportMismatch, match="differs from the student by"):
        export_student(student, tmp_path, format="tflite")
    assert list(tmp_path.iterdir()) == []


def test_interrupted_export_leaves_nothing(student, tmp_path, set_writer):
    def interrupted(_, path, options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    set_writer(interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_student(student, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_garbage_is_not_an_artifact(student, tmp_path, set_writer):
    set_writer(lambda _, path, options: path.write_bytes(b"no"))
    with pytest.raises(ExportMismatch, match="cannot be reloaded in a new process"):
        export_student(student, tmp_path, format="tflite")
    assert list(tmp_path.iterdir()) == []


def test_what_the_converter_cannot_write_is_one_sentence(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Resizing(4, 4, interpolation="bicubic")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x), name="own")
    with pytest.raises(ExportMismatch) as refused:
        export_student(model, tmp_path, format="tflite")
    assert str(refused.value) == (
        "tflite of 'own' could not be written (ConverterError): 'tf.ResizeBicubic' op is neither "
        "a custom op nor a flex op"
    )
    assert list(tmp_path.iterdir()) == []
    assert export_student(model, tmp_path, format="savedmodel").agreement == 1


@pytest.mark.parametrize("error", [ImportError, MemoryError, OSError, ValueError])
def test_errors_that_say_enough_are_kept(student, tmp_path, monkeypatch, error):
    def fail(*args):
        raise error("own words")

    monkeypatch.setattr(tflite, "write_tflite", fail)
    with pytest.raises(error, match=r"^own words$"):
        export_student(student, tmp_path, format="tflite")


def test_unknown_format_lists_those_that_exist(student, tmp_path):
    with pytest.raises(ValueError, match=r"`format` must be one of savedmodel, tflite.*'caffe'"):
        export_student(student, tmp_path, format="caffe")


@pytest.mark.parametrize("limits", [{"tolerance": float("nan")}, {"min_agreement": "all"}])
def test_limits_are_numbers(limits, tmp_path):
    message = rf"`{next(iter(limits))}` must be a finite number of at least 0"
    with pytest.raises(ValueError, match=message):
        export_student(tmp_path / "absent.keras", tmp_path, **limits)
    with pytest.raises(ValueError, match=message):
        export_bundle(tmp_path / "absent.keras", tmp_path, verify={"onnx": limits})
    with pytest.raises(ValueError, match=r"`verify` must be one of savedmodel.*'onx'"):
        export_bundle(tmp_path / "absent.keras", tmp_path, verify={"onx": limits})


def test_agreement_is_asked_for_on_real_images_only(student, images, tmp_path):
    export_student(student, tmp_path, "tflite", min_agreement=1.1)
    with pytest.raises(ExportMismatch, match=r"less than 110\.0% of the images"):
        export_student(student, tmp_path, "tflite", images=images, min_agreement=1.1)


def test_a_quantized_file_of_the_same_accuracy_is_accepted(student, images, tmp_path, monkeypatch):
    found = Comparison(0.0, 1.0, 0.5, 400, 5, accuracy_before=0.9, accuracy=0.9)
    monkeypatch.setattr(artifact, "compare", lambda *arrays: found)
    result = export_student(student, tmp_path, "tflite-dynamic", images=images)
    assert (result.min_agreement, result.min_accuracy) == (0.98, 0.99)


def test_a_smaller_tolerance_than_that_of_the_format(student, tmp_path):
    with pytest.raises(ExportMismatch, match="differs from the student by more than 1e-12 of"):
        export_student(student, tmp_path, "tflite", tolerance=1e-12)


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
    with pytest.raises(FileNotFoundError, match=r"must be an existing \.keras file or run folder"):
        export_student(tmp_path / "absent.keras", tmp_path)
    (tmp_path / "broken.keras").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"complete \.keras file"):
        export_student(tmp_path / "broken.keras", tmp_path)
    with pytest.raises(FileNotFoundError, match="a folder with a trained student"):
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


def test_names_that_tensorflow_does_not_accept_are_refused(tmp_path):
    inputs = keras.Input((4, 4, 3), name="my image")
    x = keras.layers.Flatten(name="_flat")(inputs)
    x = keras.layers.Dense(3, name="_dense")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="größe")(x), name="my net")
    with pytest.raises(ValueError, match=r"Received: 'my net', '_dense', 'größe'$"):
        export_student(model, tmp_path)


def _with_a_dead_layer():
    x = inputs = keras.Input((8, 8, 3))
    for name in ("alive", "dead"):
        x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name=name)(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(keras.layers.MaxPooling2D(name="max")(x))
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name="partly")


def test_a_layer_of_zeros_that_int8_cannot_represent_is_named(tmp_path):
    model = _with_a_dead_layer()
    model.get_layer("dead").bias.assign(np.full(8, -100.0))
    model.get_layer("logits").bias.assign([1.0, -2.0, 3.0])
    images = np.random.default_rng(7).standard_normal((4, 8, 8, 3)).astype("float32")
    with pytest.raises(ExportMismatch, match="only zeros of 'dead', 'max', 'mean', and then"):
        export_student(model, tmp_path, "tflite-int8", calibration=images)
    assert list(tmp_path.iterdir()) == []
    assert export_student(model, tmp_path, "tflite-dynamic", images=images).agreement == 1


def test_a_channels_first_student_is_exported_behind_a_permutation(tmp_path):
    first = {"data_format": "channels_first"}
    student = keras.Sequential(
        [
            keras.Input((3, 8, 10)),
            keras.layers.Rescaling(0.5),
            keras.layers.Conv2D(4, 3, name="conv", **first),
            keras.layers.GlobalAveragePooling2D(**first),
            keras.layers.Dense(3),
        ],
        name="first",
    )
    normalization = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}
    for options in ({}, normalization):
        with pytest.raises(ValueError, match=r"images \[N, H, W, C\].*Permute.*'first'.*'conv'"):
            export_student(student, tmp_path, "tflite", **options)
    behind = keras.Sequential([keras.Input((8, 10, 3)), keras.layers.Permute((3, 1, 2)), student])
    pixels = np.random.default_rng(6).integers(0, 256, (4, 8, 10, 3), "uint8")
    mean, std = (np.reshape(values, (3, 1, 1)) for values in normalization.values())
    images = (pixels.transpose(0, 3, 1, 2) / 255 - mean) / std
    path = export_student(behind, tmp_path, "tflite", images=pixels, **normalization).path
    logits = reload_outputs("tflite", path, pixels.astype("float32"))
    np.testing.assert_allclose(logits, student(images.astype("float32")), atol=1e-5)


def test_a_student_inside_a_model_is_loaded_with_its_layers_and_in_float32(student):
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, student(keras.layers.Rescaling(1 / 255)(inputs)))
    loaded = load_student(model)
    assert list(kd_layers_of(loaded)) == list(kd_layers_of(student))
    assert fingerprint(loaded) == fingerprint(model)
    with dtype_policy("mixed_float16"):
        half = keras.Sequential([inputs, keras.layers.Flatten(), keras.layers.Dense(3)])
    loaded = load_student(keras.Model(inputs, half(keras.layers.Rescaling(1 / 255)(inputs))))
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}


def test_the_matrices_of_lora_are_added_to_the_kernels():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")])
    model.get_layer("logits").enable_lora(2)
    model.set_weights([np.full(weight.shape, 0.5) for weight in model.weights])
    loaded = load_student(model)
    assert [weight.shape for weight in loaded.weights] == [(4, 3), (3,)]
    images = np.arange(8, dtype="float32").reshape(2, 4)
    np.testing.assert_allclose(loaded(images), model(images), rtol=1e-6)


@pytest.mark.parametrize("name", ["savedmodel", "tflite"])
def test_a_student_of_bytes_has_files_of_float32(tmp_path, name):
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    pixels = np.random.default_rng(5).integers(0, 256, (4, 8, 8, 3), "uint8")
    path = export_student(model, tmp_path, name, images=pixels).path
    logits = reload_outputs(name, path, pixels.astype("float32"))
    np.testing.assert_allclose(logits, model(pixels), atol=1e-5)


def test_untrained_batch_norm_is_exported_with_a_warning(tmp_path, caplog):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization(name="fresh")(keras.layers.Conv2D(3, 1)(inputs))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    assert export_student(model, tmp_path, format="tflite").agreement == 1
    assert "statistics were never updated: ['fresh']" in caplog.text


@pytest.mark.parametrize(
    ("number", "is_right", "warns"), [(100, False, True), (100, True, False), (99, False, False)]
)
def test_a_student_that_hardly_recognizes_the_labelled_images_is_warned_about_once(
    number, is_right, warns, student, tmp_path, caplog
):
    images = np.random.default_rng(2).standard_normal((number, 16, 16, 3)).astype("float32")
    labels = np.asarray(student(images)).argmax(axis=-1)
    labels = labels if is_right else (labels + 1) % 5
    formats = ("savedmodel", "tflite")
    export_bundle(student, tmp_path, formats, images=images, labels=labels)
    warning = f"hardly better than chance on the labelled images, with 0.0% of {number}: are they"
    assert caplog.text.count("hardly better than chance") == caplog.text.count(warning) == warns


@pytest.mark.parametrize(("names", "named"), [(list("abcde"), "'d'"), (None, "3")])
def test_a_class_that_a_file_hardly_recognizes_is_named(
    names, named, student, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(artifact, "lost_class", lambda *arrays: (3, 20, 15, 1))
    images = np.random.default_rng(2).standard_normal((4, 16, 16, 3)).astype("float32")
    options = {"images": images, "labels": [0, 1, 2, 3], "class_names": names}
    export_student(student, tmp_path, format="savedmodel", **options)
    warning = f"recognizes 1 of 20 images of the class {named}, and the student 15. Top-1 of all"
    assert warning in caplog.text


@pytest.mark.parametrize(
    ("result", "learned"),
    [
        ({"accuracy_last": 21.0}, False),
        ({"accuracy_selected": 21.0, "accuracy_validation": 90.0}, False),
        ({"accuracy_last": 90.0}, True),
        ({}, True),  # it is not known
    ],
)
@pytest.mark.parametrize("export", [export_bundle, export_student])
def test_a_student_of_a_run_that_never_was_better_is_not_suspected_of_other_images(
    export, result, learned, student, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(exporting, "write_artifact", lambda *args, **limits: None)
    monkeypatch.setattr(exporting, "write_card", lambda *args, **described: None)
    run = RunFolder(tmp_path / "run", {"export_method": "kd", "seed": 0}).path
    (run / "kd" / "seed0").mkdir(parents=True)
    student.save(run / "kd" / "seed0" / "student.keras")
    write_json(run / "kd" / "seed0" / "result.json", result)
    images = np.random.default_rng(2).standard_normal((100, 16, 16, 3)).astype("float32")
    labels = (np.asarray(student(images)).argmax(axis=-1) + 1) % 5
    formats = ("tflite",) if export is export_bundle else "tflite"
    export(run, tmp_path / "exported", formats, images=images, labels=labels)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    if learned:
        assert warning.endswith("in its training, and the classes in the same order?")
    else:
        assert warning == (
            "The student has learned hardly anything: its training ended with 21.0% on the test "
            "images. See docs/troubleshooting.md#the-student-is-not-better"
        )


def test_labels_of_an_earlier_student_are_not_left_without_a_warning(
    student, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(exporting, "write_artifact", lambda *args, **limits: None)
    export_student(student, tmp_path, "tflite", class_names="abcde")
    assert (tmp_path / "labels.txt").read_text() == "a\nb\nc\nd\ne\n"
    assert "labels.txt" not in caplog.text
    export_student(student, tmp_path, "tflite")
    assert "labels.txt is not of this export, which has no `class_names`" in caplog.text


def test_a_network_of_an_onnx_file_is_no_student(tmp_path):
    teacher = open_onnx(residual_network(tmp_path / "teacher.onnx"))
    with pytest.raises(ValueError, match=r"`model` must be a network of Keras .* with 'stage1'$"):
        export_student(teacher, tmp_path / "out", "tflite")
    assert not (tmp_path / "out").exists()
