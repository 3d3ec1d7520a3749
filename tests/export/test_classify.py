import json
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from image_trees import picture
from PIL import Image

from letkd_keras.data.decoding import decode
from letkd_keras.export import classify as command
from letkd_keras.export import export_bundle, formats
from letkd_keras.export.formats.reload import RUNTIMES

_MEAN, _STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
_NAMES = ("ant", "bee", "cat", "dog", "red eel")


@pytest.fixture(scope="module")
def exported(student, tmp_path_factory):
    """Artifacts for pixels and their card, with a picture of 16 x 16 and a larger one."""
    folder = tmp_path_factory.mktemp("exported")
    given = {"mean": _MEAN, "std": _STD, "class_names": _NAMES}
    pixels = np.random.default_rng(5).integers(0, 256, (4, 16, 16, 3), "uint8")
    export_bundle(student, folder, ("savedmodel", "tflite", "onnx"), images=pixels, **given)
    Image.fromarray(pixels[0]).save(folder / "image.png")
    picture((200, 90, 20), (50, 40)).save(folder / "image.jpg", quality=95)
    return folder


def _probabilities(student, file):
    pixels = np.asarray(Image.open(file), "float64")
    logits = np.asarray(student(((pixels / 255 - _MEAN) / _STD)[None].astype("float32")))[0]
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("file", ["student.tflite", "student.onnx", "savedmodel"])
def test_probabilities_are_those_of_the_student(student, exported, file):
    probabilities, names = command.classify(exported / file, [exported / "image.png"] * 2)
    expected = _probabilities(student, exported / "image.png")
    np.testing.assert_allclose(probabilities, [expected] * 2, atol=1e-5)
    assert names == list(_NAMES)


def test_normalized_images_and_probabilities(student, exported, tmp_path):
    given = {"mean": _MEAN, "std": _STD, "input": "normalized", "output": "probabilities"}
    export_bundle(student, tmp_path, ("tflite",), **given)
    probabilities, names = command.classify(tmp_path / "student.tflite", [exported / "image.png"])
    expected = _probabilities(student, exported / "image.png")
    np.testing.assert_allclose(probabilities[0], expected, atol=1e-5)
    assert names == list("01234")


@pytest.mark.parametrize("file", ["student.tflite", "student.onnx"])
def test_command_needs_neither_keras_nor_tensorflow(student, exported, file):
    done = subprocess.run(
        [
            *(sys.executable, "-X", "importtime", "-m", "letkd_keras.export.classify"),
            *(str(exported / file), str(exported / "image.png"), str(exported / "image.jpg")),
            *("--top", "2"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not re.search(r"\| +(tensorflow|keras)$", done.stderr, re.MULTILINE)
    # Runtimes write what they do to stderr.
    assert all(line.startswith("import time:") for line in done.stderr.splitlines())
    lines = done.stdout.splitlines()
    assert (lines[0], lines[3]) == (str(exported / "image.png"), str(exported / "image.jpg"))
    expected = _probabilities(student, exported / "image.png")
    best = int(expected.argmax())
    assert lines[1].split() == [*_NAMES[best].split(), f"{100 * expected[best]:.2f}%"]
    assert len(lines) == 6


def _error(capsys, *arguments):
    with pytest.raises(SystemExit) as status:
        command.run_main(lambda: command.main(list(map(str, arguments))))
    assert status.value.code == 2
    return capsys.readouterr().err


def test_wrong_files(exported, tmp_path, capsys):
    image = exported / "image.png"
    assert "which does not exist" in _error(capsys, exported / "absent.tflite", image)
    assert "an artifact that its card.json lists: savedmodel, student.tflite, student.onnx" in (
        _error(capsys, image, image)
    )
    assert "one of the artifacts in the folder: savedmodel, student.tflite, student.onnx. " in (
        _error(capsys, exported, image)
    )
    shutil.copy(exported / "student.tflite", tmp_path / "student.tflite")
    assert "without a card.json" in _error(capsys, tmp_path / "student.tflite", image)
    shutil.copy(exported / "card.json", tmp_path)
    with (tmp_path / "student.tflite").open("ab") as file:
        file.write(b"0")
    assert "its checksum is not that in card.json" in (
        _error(capsys, tmp_path / "student.tflite", image)
    )


def test_wrong_images(exported, tmp_path, capsys):
    artifact = exported / "student.tflite"
    assert "`images` must be image files" in _error(capsys, artifact, tmp_path / "absent.jpg")
    (tmp_path / "broken.jpg").write_bytes((exported / "image.jpg").read_bytes()[:200])
    assert "broken.jpg' is damaged or not an image" in (
        _error(capsys, artifact, tmp_path / "broken.jpg")
    )


def test_a_missing_runtime_is_named(exported, monkeypatch):
    def run(path, threads):
        raise ImportError("none")

    monkeypatch.setitem(RUNTIMES, "onnx", run)
    with pytest.raises(ImportError, match=r"student\.onnx needs onnxruntime: pip install onnxrun"):
        command.classify(exported / "student.onnx", [exported / "image.png"])


def test_equal_classes_are_printed_in_their_order(monkeypatch, capsys):
    names, probabilities = [*map(str, range(39)), "a long name"], np.tile([0.02, 0.03], (1, 20))
    monkeypatch.setattr(command, "classify", lambda file, images: (probabilities, names))
    command.main(["student.tflite", "image.png", "--top", "20"])
    rows = capsys.readouterr().out.splitlines()
    assert rows == ["image.png", *(f"  {name:11}   3.00%" for name in names[1::2])]


def test_artifact_whose_pixels_are_not_known(student, exported, tmp_path, capsys):
    export_bundle(student, tmp_path, ("onnx",))
    assert "normalized as in training" in (
        _error(capsys, tmp_path / "student.onnx", exported / "image.png")
    )


def test_damaged_card(exported, tmp_path, capsys):
    shutil.copy(exported / "student.onnx", tmp_path)
    card = json.loads((exported / "card.json").read_text())
    card["artifacts"] = {"onnx": card["artifacts"]["onnx"]}
    for changes, message in (
        ({"class_names": ["one"]}, "it names 1 classes, but the artifact has 5"),
        ({"inputs": {}}, "`inputs` must have checked_size, crop, kind"),
        ({"inputs": {**card["inputs"], "std": [0, 1, 1]}}, "`mean` and `std` must be lists"),
        ({"inputs": {**card["inputs"], "crop": 0}}, "`crop` must be a number"),
        ({"inputs": {**card["inputs"], "shape": "big"}}, "`shape` must be"),
        ({"inputs": {**card["inputs"], "shape": [10**9, 10**9, 3]}}, "`shape` must be"),
        ({"inputs": {**card["inputs"], "checked_size": [None, 16]}}, "`checked_size` must be"),
        ({"inputs": {**card["inputs"], "checked_size": [16]}}, "square RGB or grayscale images"),
        ({"inputs": {**card["inputs"], "checked_size": [16, 12]}}, "images of 16 x 12 x 3"),
        ({"inputs": {**card["inputs"], "shape": [16, 16, 2]}}, "images of 16 x 16 x 2"),
        ({"outputs": {"kind": "scores"}}, "`outputs` must have one of logits, probabilities"),
    ):
        (tmp_path / "card.json").write_text(json.dumps({**card, **changes}))
        error = _error(capsys, tmp_path / "student.onnx", exported / "image.png")
        assert message in error, error
    del card["class_names"]
    (tmp_path / "card.json").write_text(json.dumps(card))
    _, names = command.classify(tmp_path / "student.onnx", [exported / "image.png"])
    assert names == list("01234")


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("tflite", {}),
        ("tflite", {"class_names": None}),
        ("tflite", {"input": "normalized"}),
        ("tflite", {"crop": 0.875}),
        ("tflite", {"output": "probabilities"}),
        ("tflite-int8", {"integer_io": True}),
        ("tflite-int8", {"integer_io": True, "output": "probabilities"}),
    ],
    ids=str,
)
def test_python_program_of_the_card(student, exported, tmp_path, format, options):
    pixels = np.random.default_rng(5).integers(0, 256, (8, 16, 16, 3), "uint8")
    given = {"mean": _MEAN, "std": _STD, "class_names": _NAMES, "images": pixels, **options}
    verify = {format: {"min_agreement": 0}}
    export_bundle(student, tmp_path, (format,), verify=verify, calibration=pixels, **given)
    shutil.copy(exported / "image.jpg", tmp_path)
    program = re.search(r"```python\n(.*?)```", (tmp_path / "card.md").read_text(), re.DOTALL)[1]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    artifact = tmp_path / formats.find(format).file_name
    (probabilities,), names = command.classify(artifact, [tmp_path / "image.jpg"])
    assert done.stdout == f"{names[probabilities.argmax()]}\n"
    assert ("labels.txt" in program) == (given["class_names"] is not None)


def _split_at(gray):
    """Class 1 for images that are brighter than a gray value on average, otherwise class 0."""
    inputs = keras.Input((16, 16, 1))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(1, 1, kernel_initializer="ones", name="map")(x)
    head = keras.layers.Dense(2)
    model = keras.Model(inputs, head(keras.layers.GlobalAveragePooling2D()(x)))
    head.set_weights([np.array([[0.0, 1.0]]), np.array([gray / 255, 0.0])])
    return model


def _class_by_the_program(folder, file):
    """What the Python program of a card prints for an image."""
    program = re.search(r"```python\n(.*?)```", (folder / "card.md").read_text(), re.DOTALL)[1]
    program = program.replace("image.jpg", file.name)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode, tmp_path):
    pixels = np.random.default_rng(5).integers(0, 256, (8, 16, 16, 1), "uint8")
    given = {"images": pixels, "class_names": ["dark", "bright"]}
    export_bundle(_split_at(150), tmp_path, ("tflite",), **given)
    file, image = tmp_path / "image.png", Image.new("L", (20, 16), 100)
    if mode == "P":
        image.convert("P").save(file, transparency=100)
    else:
        image = image.convert(mode)
        image.putalpha(0)
        image.save(file)
    (probabilities,), names = command.classify(tmp_path / "student.tflite", [file])
    assert names[probabilities.argmax()] == "bright"
    assert _class_by_the_program(tmp_path, file) == "bright"


def test_a_student_of_any_size_gets_the_size_that_was_checked(tmp_path):
    inputs = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 3, name="map")(keras.layers.Rescaling(1 / 255)(inputs))
    pooled = keras.layers.GlobalMaxPooling2D()(features)
    student = keras.Model(inputs, keras.layers.Dense(5)(pooled))
    pixels = np.random.default_rng(5).integers(0, 256, (4, 16, 16, 3), "uint8")
    export_bundle(student, tmp_path, ("tflite",), images=pixels, crop=0.9)
    picture((200, 90, 20), (50, 40)).save(tmp_path / "image.png")
    (probabilities,), _ = command.classify(tmp_path / "student.tflite", [tmp_path / "image.png"])
    image = decode(tmp_path / "image.png", 18)[1:17, 1:17].astype("float32")  # 16 of 17.8
    expected = keras.ops.softmax(student(image[None]))[0]
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize(("gray", "name"), [(100, "dark"), (200, "bright")])
@pytest.mark.parametrize("bits", [8, 16])
def test_grayscale_images_and_16_bits(gray, name, bits, tmp_path):
    pixels = np.random.default_rng(5).integers(0, 256, (8, 16, 16, 1), "uint8")
    given = {"images": pixels, "class_names": ["dark", "bright"]}
    export_bundle(_split_at(150), tmp_path, ("tflite",), **given)
    pixel = gray if bits == 8 else 256 * gray
    file = tmp_path / "image.png"
    Image.fromarray(np.full((20, 16), pixel, f"uint{bits}")).save(file)
    (probabilities,), names = command.classify(tmp_path / "student.tflite", [file])
    assert names[probabilities.argmax()] == name
    card = (tmp_path / "card.md").read_text()
    assert "kotlin" not in card
    assert _class_by_the_program(tmp_path, file) == name
