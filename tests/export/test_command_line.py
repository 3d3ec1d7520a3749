import argparse
import inspect
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from image_trees import write_tree
from random_students import with_kd_layers

from letkd_keras.commands.run_folder import RunFolder
from letkd_keras.data import DataSpec
from letkd_keras.distillers import KD
from letkd_keras.export import ExportMismatch, export_bundle, formats
from letkd_keras.export import __main__ as command
from letkd_keras.export import classify as classifying
from letkd_keras.export import sweep as sweeping
from letkd_keras.export import verify as verifying
from letkd_keras.export.card import read_card
from letkd_keras.export.evaluation_images import selection_images, take

_QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


def _run(main, *arguments):
    return main(list(map(str, arguments)))


def _run_folder(path, student, spec, **config):
    """A run folder, as a recipe leaves it, with a student that was not trained."""
    data = spec.open()
    config = {"data": {**spec.config(), "digest": data.digest}, "pair": "a-b", **config}
    folder = RunFolder(path, {"export_method": "letkd2", "seed": 3, **config}).path
    (folder / "letkd2" / "seed3").mkdir(parents=True)
    student.save(folder / "letkd2" / "seed3" / "student.keras")
    return folder


@pytest.fixture
def run(student, tmp_path, data_file):
    return _run_folder(tmp_path / "run", student, DataSpec(str(data_file)))


def test_a_command_and_python_write_the_same_formats_by_default():
    in_python = inspect.signature(export_bundle).parameters["formats"].default
    assert tuple(command.parse(["student.keras", "--out", "out"]).formats) == in_python


def test_run_folder_to_verified_artifacts(tmp_path, capsys):
    student = with_kd_layers("resnet8", classes=10, size=32)
    spec = DataSpec("digits", pixels="0..1", test_examples=20)
    run, out = _run_folder(tmp_path / "run", student, spec), tmp_path / "out"
    _run(command.main, run, "--formats", "tflite", "--out", out)
    shown = capsys.readouterr().out
    assert "compared with the student in Keras on 20 images, where it has an accuracy of" in shown
    assert max(map(len, shown.splitlines()[:3])) <= 80
    card = read_card(out)
    assert card["training"]["config"]["pair"] == "a-b"
    assert card["training"]["student"] == "letkd2/seed3/student.keras"
    assert card["inputs"]["mean"] == [0, 0, 0]
    assert card["class_names"] == [str(digit) for digit in range(10)]
    assert "- Data: " in (out / "card.md").read_text()
    assert _run(verifying.main, out, "--model", run, "--check-images", 12) == 0
    assert "tflite: max difference" in (text := capsys.readouterr().out)
    assert "of 12 images" in text


@pytest.mark.parametrize("source", ["{}", "imagenet:{}"])
def test_folder_of_photos_to_int8_that_classifies_a_photo(tmp_path, capsys, source):
    tree = tmp_path / "tree"
    write_tree(tree / "train", images=8, size=(24, 20), suffix=".jpg")
    write_tree(tree / "val", images=4, size=(24, 20), suffix=".jpg")
    spec = DataSpec(source.format(tree), image_size=16, pixels="-1..1")
    student = with_kd_layers("resnet8", classes=3)
    run, out = _run_folder(tmp_path / "run", student, spec), tmp_path / "out"
    _run(command.main, run, "--formats", "tflite-int8", "--integer-io", "--out", out)
    assert (out / "labels.txt").read_text().split() == ["ant", "bee", "cat"]
    card = read_card(out)
    assert card["artifacts"]["tflite-int8"]["input_dtype"] == "uint8"
    resized = " of the shorter side to 18" if "imagenet" in source else " of the shorter side"
    assert card["inputs"]["description"] == (
        f"RGB, 0 to 255, 16 x 16, bilinear resize{resized}, center crop"
    )
    capsys.readouterr()
    photo = tree / "val" / "bee" / "0.jpg"
    _run(classifying.main, out / "student_int8.tflite", photo, "--top", 1)
    shown = capsys.readouterr().out.splitlines()
    labels, images = ["ant", "bee", "cat"], take(spec.open(), "test", 12)[0]
    expected = np.asarray(student(images)).argmax(-1)
    assert shown[0] == str(photo)
    assert shown[1].split()[0] == labels[expected[4]]
    assert _run(verifying.main, out, "--model", run) == 0


def test_inputs_and_outputs_of_the_command(student, data_file, tmp_path):
    student.save(tmp_path / "student.keras")
    arguments = (tmp_path / "student.keras", "--formats", "tflite", "--out", tmp_path / "out")
    options = ("--data", data_file, "--input", "normalized", "--output", "probabilities")
    _run(command.main, *arguments, *options)
    card = read_card(tmp_path / "out")
    assert (card["inputs"]["kind"], card["outputs"]["kind"]) == ("normalized", "probabilities")
    assert card["inputs"]["description"].endswith(
        "mean and standard deviation of the training assumed"
    )
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "assumed to take images with the mean and standard deviation of blocks" in log
    with pytest.raises(ValueError, match="--data must be given for --input pixels"):
        _run(command.main, *arguments, "--input", "pixels")
    with pytest.raises(ValueError, match=r"--data must be given, since .*: tflite-int8\. Rec"):
        _run(command.main, *arguments[:-2], "tflite-int8", *arguments[-2:])


class _Received(Exception):
    """What a command passes on, in place of the work."""

    def __init__(self, *arguments, **options):
        self.arguments, self.options = arguments, options


def _raise(*arguments, **options):
    raise _Received(*arguments, **options)


def test_options_reach_the_export(run, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr("letkd_keras.export.student.export_bundle", _raise)
    monkeypatch.setattr(command.formats, "check_installed", lambda names: None)
    written = (
        "--formats tflite-int8 tflite-int4 tflite-pruned tflite-clustered onnx --no-fold "
        "--integer-io --snr --precision kd_*=int8 conv1=float32 --channels-first --opset 15 "
        "--epochs 2 --learning-rate 0.1 --sparsity 0.3 --clusters 8 --seed 5 --check-images 10 "
        "--calibration-images 12"
    )
    with pytest.raises(_Received) as received:
        _run(command.main, run, "--out", tmp_path / "out", *written.split())
    expected = {
        "fold": False,
        "integer_io": True,
        "snr": True,
        "precision": {"kd_*": "int8", "conv1": "float32"},
        "channels_first": True,
        "opset": 15,
        "epochs": 2,
        "learning_rate": 0.1,
        "sparsity": 0.3,
        "clusters": 8,
        "seed": 5,
        "assumed_normalization": False,
    }
    options = received.value.options
    assert {name: options[name] for name in expected} == expected
    data = DataSpec(str(data_file)).open()
    images, labels = take(data, "test", 10, seed=5)
    np.testing.assert_array_equal(options["images"], images)
    np.testing.assert_array_equal(options["labels"], labels)
    assert len(options["calibration"]) == 12
    assert options["data_name"] == f"{data.name}, {data.split}"


def test_a_student_that_rescales_takes_pixels_without_images(tmp_path, monkeypatch):
    monkeypatch.setattr("letkd_keras.export.student.export_bundle", _raise)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    keras.Model(inputs, keras.layers.Dense(3)(x)).save(tmp_path / "student.keras")
    words = ("--formats", "tflite", "--input", "pixels", "--out", tmp_path / "out")
    with pytest.raises(_Received) as received:
        _run(command.main, tmp_path / "student.keras", *words)
    assert received.value.options["input"] == "pixels"


def test_the_table_has_the_file_and_the_line_below_it_the_student(tmp_path, capsys):
    result = SimpleNamespace(
        path=tmp_path / "a.tflite",
        bytes=1000,
        max_difference=0.5,
        agreement=0.9,
        accuracy=0.75,
        accuracy_before=0.8,
        num_images=20,
    )
    command._print_results({"tflite-int8": result}, tmp_path, is_noise=False)
    shown = " ".join(capsys.readouterr().out.split())
    assert "tflite-int8 a.tflite 1,000 5.0e-01 90.00% 75.00%" in shown
    assert "on 20 images, where it has an accuracy of 80.00%" in shown


def test_a_precision_names_a_layer():
    with pytest.raises(argparse.ArgumentTypeError, match="must be LAYER=TYPE"):
        command.layer_precision("=int8")


def test_options_reach_the_sweep(run, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr("letkd_keras.export.template_sweep.sweep", _raise)
    written = (
        "--templates 4 8 --max-loss 1 --format onnx --student-epochs 2 --seed 5 "
        "--selection-images 20 --calibration-images 30 --check-images 10"
    )
    with pytest.raises(_Received) as received:
        _run(sweeping.main, run, "--out", tmp_path / "out", *written.split())
    assert received.value.options == {
        "templates": [4, 8],
        "max_loss": 1,
        "format": "onnx",
        "fine_tune_epochs": 2,
        "seed": 5,
    }
    data = DataSpec(str(data_file)).open()
    _, selection, images, labels = received.value.arguments
    expected = selection_images(data, 20, 30, seed=5)
    np.testing.assert_array_equal(selection.images, expected.images)
    np.testing.assert_array_equal(selection.calibration, expected.calibration)
    for given, taken in zip((images, labels), take(data, "test", 10, seed=5), strict=True):
        np.testing.assert_array_equal(given, taken)
    (run / "letkd2" / "seed3" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        _run(sweeping.main, run, "--out", tmp_path / "out")


def test_options_reach_verify(run, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr("letkd_keras.export.artifact_verification.verify_artifacts", _raise)
    with pytest.raises(_Received) as received:
        _run(verifying.main, tmp_path, "--model", run, "--check-images", 10, "--seed", 5)
    images, labels = take(DataSpec(str(data_file)).open(), "test", 10, seed=5)
    np.testing.assert_array_equal(received.value.options["images"], images)
    np.testing.assert_array_equal(received.value.options["labels"], labels)


@pytest.mark.parametrize(
    ("options", "limits"), [((), (0.98, 0.99)), (("--min-agreement", 0.5), (0.5, None))]
)
def test_the_least_agreement_is_that_of_the_command(student, data_file, tmp_path, options, limits):
    student.save(tmp_path / "student.keras")
    arguments = (tmp_path / "student.keras", "--data", data_file, "--out", tmp_path / "out")
    _run(command.main, *arguments, "--formats", "tflite", "tflite-int8", *options)
    artifacts = read_card(tmp_path / "out")["artifacts"]
    assert {
        name: (row["min_agreement"], row["min_accuracy"]) for name, row in artifacts.items()
    } == {
        "tflite": (1.0, None),
        "tflite-int8": limits,
    }


def test_without_images_files_are_checked_on_noise(student, tmp_path, capsys):
    student.save(tmp_path / "student.keras")
    out = tmp_path / "out"
    _run(command.main, tmp_path / "student.keras", "--formats", "tflite", "--out", out)
    shown = " ".join(capsys.readouterr().out.split())
    assert "compared with the student in Keras on 8 images of noise, since no --data was" in shown
    assert "%" not in shown
    assert _run(verifying.main, out, "--model", tmp_path / "student.keras") == 0
    assert "compared on images of noise, since no --data was given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parse", "option"),
    [
        (command.parse, "--check-images"),
        (command.parse, "--calibration-images"),
        (verifying.parse, "--check-images"),
    ],
)
def test_numbers_of_images_need_images(run, tmp_path, capsys, parse, option):
    words = ["--formats", "tflite-int8", "--out", "out"]
    words = [*(["folder", "--model"] if parse is verifying.parse else words), str(run)]
    parse([*words, option, "5"])
    words[-1] = str(tmp_path / "student.keras")
    parse([*words, option, "5", "--data", "digits"])
    with pytest.raises(SystemExit):
        parse([*words, option, "5"])
    assert f"error: {option} needs --data, since" in capsys.readouterr().err


def test_exit_status_of_verify(student, data_file, tmp_path, capsys):
    student.save(tmp_path / "student.keras")
    out, arguments = tmp_path / "out", ("--data", data_file)
    _run(command.main, tmp_path / "student.keras", "--formats", "tflite", "--out", out, *arguments)
    arguments = (out, "--model", tmp_path / "student.keras", *arguments)
    assert _run(verifying.main, *arguments) == 0
    assert "top-1 agreement 100.00% of 30 images, accuracy " in capsys.readouterr().out
    card = json.loads((out / "card.json").read_text())
    card["artifacts"]["tflite"]["tolerance"] = 1e-12
    (out / "card.json").write_text(json.dumps(card))
    assert _run(verifying.main, *arguments) == 1
    assert "tflite: FAILED" in capsys.readouterr().out
    (out / "card.json").write_text(json.dumps({**card, "artifacts": {}}))
    assert _run(verifying.main, *arguments) == 2
    assert capsys.readouterr().out.endswith("has no files in its card: nothing was compared\n")


def test_sweep_of_a_run_is_exported_and_verified(run, tmp_path, capsys):
    small, out = tmp_path / "small", tmp_path / "out"
    options = ("--templates", 4, 8, "--max-loss", 100, "--out", small)
    _run(sweeping.main, run, *options, "--selection-images", 20, "--calibration-images", 40)
    shown = " ".join(capsys.readouterr().out.split())
    assert "on 20 training images that the reduction was not fitted to" in shown
    assert f"Accuracy against cost: {small / 'sweep.png'}" in shown
    _run(command.main, small, "--formats", "onnx", "--out", out)
    training = read_card(out)["training"]
    assert training["reduced"]["form"] == "reduced-4"
    assert training["run"] == "run"
    assert _run(verifying.main, out, "--model", small) == 0


def test_sweep_selects_on_the_validation_images_of_a_run(student, data_file, tmp_path):
    spec = DataSpec(str(data_file), validation_fraction=0.25)
    run = _run_folder(tmp_path / "run", student, spec)
    options = ("--templates", 8, "--max-loss", 100, "--out", tmp_path / "small")
    _run(sweeping.main, run, *options)
    reduced = json.loads((tmp_path / "small" / "sweep.json").read_text())["reduced"]
    assert reduced["selected_on"] == "15 validation images, held out of the training"


def test_a_run_whose_data_changed_is_refused(run, data_file, tmp_path):
    shutil.move(data_file, tmp_path / "moved.npz")
    with pytest.raises(FileNotFoundError, match=r"run are no longer in .*blocks\.npz: name"):
        _run(command.main, run, "--out", tmp_path / "out")
    _run(
        *(command.main, run, "--formats", "tflite", "--out", tmp_path / "out"),
        *("--data", tmp_path / "moved.npz"),
    )


def test_whole_distiller_is_exported_by_the_command(student, tmp_path):
    KD(teacher=keras.models.clone_model(student), student=student).save(tmp_path / "whole.keras")
    arguments = [tmp_path / "whole.keras", "--formats", "tflite", "--out", tmp_path / "out"]
    done = _subprocess("letkd_keras.export", *arguments)
    assert done.returncode == 0, done.stderr
    assert read_card(tmp_path / "out")["kd_layers"]


def test_files_are_listed_although_another_format_is_refused(
    student, tmp_path, capsys, monkeypatch
):
    write = formats.Format.write

    def write_or_refuse(form, *args):
        if form.file_name == "student.onnx":
            raise ValueError("no such operator")
        write(form, *args)

    monkeypatch.setattr(formats.Format, "write", write_or_refuse)
    student.save(tmp_path / "student.keras")
    arguments = (tmp_path / "student.keras", "--out", tmp_path / "out", "--formats", "onnx")
    with pytest.raises(ExportMismatch, match=r"^onnx: no such operator$"):
        _run(command.main, *arguments)
    assert not capsys.readouterr().out
    with pytest.raises(ExportMismatch, match=r"^onnx: no such operator$"):
        _run(command.main, *arguments, "tflite")
    shown = " ".join(capsys.readouterr().out.split())
    assert "tflite student.tflite" in shown
    assert f"written to {tmp_path / 'out'}, described in" in shown


def test_files_are_not_written_into_the_images(tmp_path):
    student = with_kd_layers("resnet8", classes=3)
    student.save(tmp_path / "student.keras")
    write_tree(tmp_path / "tree", images=4, size=(24, 20))
    arguments = (tmp_path / "student.keras", "--data", tmp_path / "tree", "--out")
    with pytest.raises(ValueError, match=r"`out` must not be in a folder .*out='.*results'"):
        _run(command.main, *arguments, tmp_path / "tree" / "results", "--formats", "tflite")
    with pytest.raises(ValueError, match=r"`out` must not be in a folder .*out='.*results'"):
        _run(sweeping.main, *arguments, tmp_path / "tree" / "results")
    assert not (tmp_path / "tree" / "results").exists()


def _subprocess(module, *arguments):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=_QUIET)


def test_refusal_is_one_line_and_status_2(tmp_path):
    done = _subprocess("letkd_keras.export", "none.keras", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == (
        "error: `model` must be an existing .keras file or run folder. "
        "Received: model='none.keras'\n"
    )


@pytest.mark.parametrize(
    ("module", "option"),
    [
        ("export", "--input KIND"),
        ("export.sweep", "--data SPEC"),
        ("export.verify", "--data SPEC"),
        ("export.classify", "--top N"),
    ],
)
def test_help_needs_no_tensorflow(module, option):
    program = (
        "import runpy, sys\n"
        "sys.argv = ['command', '--help']\n"
        "try:\n"
        f"    runpy.run_module('letkd_keras.{module}', run_name='__main__')\n"
        "except SystemExit:\n"
        "    pass\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'imported'\n"
    )
    # `-m` in the arguments: the package is then imported as by a command.
    done = subprocess.run(
        [sys.executable, "-c", program, "-m", "letkd_keras.export"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert option in done.stdout


def test_options_that_one_of_the_formats_uses():
    options = command.parse(
        [
            *("m.keras", "--out", "out", "--formats", "tflite-int8", "onnx", "tflite-pruned"),
            *("--integer-io", "--snr", "--opset", "15", "--sparsity", "0.3", "--epochs", "2"),
        ]
    )
    assert (options.integer_io, options.opset, options.epochs) == (True, 15, 2)
    # Only what differs from the default does anything.
    assert command.parse(["m.keras", "--out", "out", "--opset", "17"]).opset == 17


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "caffe"], "--formats must be one of savedmodel"),
        (["--formats", "tflite,onnx"], "--formats must be a list separated by spaces"),
        (["--opset", "12"], "--opset must be an integer from 13 to 18"),
        (["--sparsity", "1"], "--sparsity must be a finite number"),
        (["--learning-rate", "nan"], "--learning-rate must be a finite number"),
        (
            ["--integer-io"],
            "--integer-io is for tflite-int8. Received: --formats savedmodel tflite",
        ),
        (
            ["--formats", "onnx", "--snr"],
            "--snr is for tflite-dynamic, tflite-int8, tflite-int16x8",
        ),
        (["--precision", "a=int8"], "--precision is for tflite-int4. Received"),
        (["--channels-first"], "--channels-first is for onnx. Received"),
        (["--opset", "15"], "--opset is for onnx. Received"),
        (
            ["--epochs", "3", "--formats", "tflite-int8"],
            "--epochs is for tflite-qat, tflite-pruned, tflite-clustered. Received",
        ),
        (["--learning-rate", "0.1"], "--learning-rate is for tflite-qat, tflite-pruned"),
        (["--sparsity", "0.3", "--formats", "tflite-qat"], "--sparsity is for tflite-pruned"),
        (["--clusters", "8", "--formats", "tflite-pruned"], "--clusters is for tflite-clustered"),
        (["--calibration-images", "0"], "--calibration-images must be an integer of at least 1"),
        (["--calibration-images", "9"], "--calibration-images is for tflite-int8, tflite-int16x8"),
        (["--check-images", "9"], "--check-images needs --data, since 'none.keras' is no run"),
    ],
)
def test_wrong_options_are_refused_before_tensorflow_is_imported(arguments, message, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-X", "importtime", "-m", "letkd_keras.export", "none.keras"),
            *("--out", str(tmp_path / "out"), *arguments),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert " tensorflow" not in done.stderr
    assert not (tmp_path / "out").exists()
