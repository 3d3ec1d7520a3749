import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from random_students import with_kd_layers

from letkd_keras.export import __main__ as command
from letkd_keras.export import verify as verifying
from letkd_keras.export.bundle import export_bundle
from letkd_keras.export.card import checksum, read_card
from letkd_keras.export.evaluation_images import load_evaluation_images
from letkd_keras.export.verification import ExportMismatch
from letkd_keras.export.verify import verify


@pytest.fixture(scope="module")
def labels(student, images):
    return np.asarray(student(images)).argmax(-1)


@pytest.fixture(scope="module")
def bundle(student, images, labels, tmp_path_factory):
    """A folder of TFLite and ONNX with their card."""
    folder = tmp_path_factory.mktemp("bundle")
    export_bundle(
        student,
        folder,
        ("tflite", "onnx"),
        images=images,
        labels=labels,
        class_names=tuple("abcde"),
        data_name="noise with labels",
    )
    return folder


def test_card_tells_what_is_there(student, bundle):
    card = read_card(bundle)
    assert card["inputs"]["shape"] == [16, 16, 3]
    assert card["class_names"] == list("abcde")
    assert card["parameters"]["student"] == student.count_params()
    assert card["verification"]["accuracy_of_student"] == 1
    assert set(card["artifacts"]) == {"tflite", "onnx"}
    for artifact in card["artifacts"].values():
        file = bundle / artifact["file"]
        assert artifact["sha256"] == checksum(file)
        assert artifact["bytes"] == file.stat().st_size
        assert artifact["agreement"] == artifact["accuracy"] == 1
    text = (bundle / "card.md").read_text()
    assert "`student.tflite`" in text
    assert "100.00%" in text
    assert "Warning" not in text


def test_formats_exported_later_join_the_card(student, images, bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "copy")
    export_bundle(
        student,
        folder,
        ("tflite-dynamic",),
        images=images,
        verify={"tflite-dynamic": {"min_agreement": 0}},
    )
    assert set(read_card(folder)["artifacts"]) == {"tflite", "onnx", "tflite-dynamic"}
    # Another student's artifacts are no part of this one's card.
    export_bundle(with_kd_layers("resnet8", templates=(8, 8)), folder, ("onnx",), images=images)
    assert set(read_card(folder)["artifacts"]) == {"onnx"}


def test_verify_passes_what_was_exported(student, images, labels, bundle):
    results = verify(bundle, student, images=images, labels=labels)
    assert {name: result.accuracy for name, result in results.items()} == {"tflite": 1, "onnx": 1}


def test_verify_finds_a_file_that_changed(student, images, bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "copy")
    with (folder / "student.onnx").open("ab") as file:
        file.write(b"\0")
    results = verify(folder, student, images=images)
    assert isinstance(results["onnx"], ExportMismatch)
    assert results["tflite"].agreement == 1


def test_verify_refuses_another_student(bundle):
    with pytest.raises(ValueError, match="its weights are others"):
        verify(bundle, with_kd_layers("resnet8", templates=(8, 8)))


def test_exit_status_of_verify(student, images, labels, bundle, tmp_path, capsys):
    student.save(tmp_path / "student.keras")
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    folder = shutil.copytree(bundle, tmp_path / "copy")
    arguments = [folder, "--model", tmp_path / "student.keras", "--data", tmp_path / "images.npz"]
    assert verifying.main(list(map(str, arguments))) == 0
    assert capsys.readouterr().out.count("top-1 agreement 100.00% of 6 images") == 2
    card = json.loads((folder / "card.json").read_text())
    card["artifacts"]["tflite"]["tolerance"] = 1e-12
    (folder / "card.json").write_text(json.dumps(card))
    assert verifying.main(list(map(str, arguments))) == 1
    assert "tflite: FAILED" in capsys.readouterr().out


def test_run_folder_to_artifacts_in_one_command(tmp_path, capsys):
    student = with_kd_layers("resnet8", classes=10, size=32)
    place = tmp_path / "run" / "letkd2" / "seed3"
    place.mkdir(parents=True)
    student.save(place / "student.keras")
    config = {"export_method": "letkd2", "seed": 3, "data": "digits", "pair": "a-b"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    arguments = [tmp_path / "run", "--format", "tflite", "--out", out, "--test-images", 9]
    assert command.main(list(map(str, arguments))) == 0
    assert "top-1 agreement 100.00% of 9 images, accuracy" in capsys.readouterr().out
    card = read_card(out)
    assert card["training"]["config"] == config
    assert card["training"]["student"] == "letkd2/seed3/student.keras"
    assert len(card["inputs"]["mean"]) == 3
    assert card["class_names"] == [str(digit) for digit in range(10)]


def test_images_from_a_file_are_normalised(tmp_path):
    pixels = np.full((5, 2, 2, 3), 255, "uint8")
    mean, std = np.array([0.5, 0.0, 1.0]), np.array([0.5, 0.25, 1.0])
    np.savez(tmp_path / "a.npz", images=pixels, calibration=pixels, mean=mean, std=std)
    found = load_evaluation_images(tmp_path / "a.npz", test_images=4, calibration_images=2)
    assert found.images.shape[0] == 4
    assert found.calibration.shape[0] == 2
    np.testing.assert_allclose(found.images[0, 0, 0], [1, 4, 0])
    assert found.labels is None
    np.savez(tmp_path / "b.npz", images=pixels)
    with pytest.raises(ValueError, match="must hold mean and std"):
        load_evaluation_images(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="`data` must be digits, cifar10"):
        load_evaluation_images("mnist")
    with pytest.raises(FileNotFoundError, match="npz file that exists"):
        load_evaluation_images(tmp_path / "none.npz")


def test_int8_without_calibration_fails_before_anything_is_written(student, images, tmp_path):
    with pytest.raises(ValueError, match="`calibration` must be given for this format"):
        export_bundle(student, tmp_path, ("tflite", "tflite-int8"), images=images)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_leaves_the_other_formats_and_their_card(student, images, tmp_path):
    impossible = {"tflite": {"tolerance": 1e-12}}
    with pytest.raises(ExportMismatch, match="tflite of 'resnet8' differs"):
        export_bundle(student, tmp_path, ("tflite", "onnx"), images=images, verify=impossible)
    assert set(read_card(tmp_path)["artifacts"]) == {"onnx"}
    assert {file.name for file in tmp_path.iterdir()} == {"student.onnx", "card.json", "card.md"}


def test_refusal_is_one_line_and_status_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "letkd_keras.export", "none.keras", "--out", tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: `model` must be a .keras file or a run folder")
    assert "Traceback" not in done.stderr
