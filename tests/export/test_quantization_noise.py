import importlib.util
from dataclasses import asdict

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from random_students import trained_looking, with_kd_layers

from letkd_keras.export import export_bundle, export_student, formats, quantization_noise
from letkd_keras.export.card import read_card
from letkd_keras.export.quantization_noise import _layer_of, always_zero, layer_noise

_MEAN, _STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
_PIXELS = np.random.default_rng(6).integers(0, 256, (20, 16, 16, 3), "uint8")
_GIVEN = {"images": _PIXELS, "calibration": _PIXELS, "mean": _MEAN, "std": _STD}
_ANY = {"tflite-int8": {"min_agreement": 0}, "tflite-int16x8": {"min_agreement": 0}}


def _types(path):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return [np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()]


def test_int16_activations_have_less_noise_than_int8(student, tmp_path):
    wanted = ("tflite-int8", "tflite-int16x8")
    results = export_bundle(student, tmp_path, wanted, snr=True, verify=_ANY, **_GIVEN)
    int8, int16 = results["tflite-int8"], results["tflite-int16x8"]
    assert _types(int16.path).count("float32") == 2
    assert int16.max_difference < int8.max_difference
    ratios = {}
    for name, result in results.items():
        layers = {noise.layer: noise.snr_db for noise in result.layer_noise}
        assert {"pixel_scaling", "conv1", "layer3_0_add", "avgpool", "output"} <= set(layers)
        ratios[name] = layers
    for layer in ("conv1", "avgpool", "output"):
        assert 10 < ratios["tflite-int8"][layer] < ratios["tflite-int16x8"][layer]
    listed = read_card(tmp_path)["artifacts"]["tflite-int8"]["layer_snr_db"]
    assert listed == [asdict(noise) for noise in int8.layer_noise]
    row = f"| `conv1` | conv_2d | {ratios['tflite-int8']['conv1']:.1f} |"
    assert row in (tmp_path / "card.md").read_text().splitlines()


def test_ratio_of_the_output_by_hand(student, tmp_path):
    given = {"mean": _MEAN, "std": _STD, "images": _PIXELS, "min_agreement": 0}
    dynamic = export_student(student, tmp_path, "tflite-dynamic", **given)
    exact = export_student(student, tmp_path, "tflite", **given)
    images = _PIXELS[:16].astype("float32")

    def run(path):
        interpreter = Interpreter(str(path))
        runner = interpreter.get_signature_runner("serving_default")
        return np.concatenate([runner(image=image[None])["logits"] for image in images])

    signal, noise = run(exact.path), run(dynamic.path) - run(exact.path)
    expected = 10 * np.log10(np.sum(signal**2) / np.sum(noise**2))
    last = layer_noise(exact.path, dynamic.path, images)[-1]
    assert last.layer == "output"
    assert last.snr_db == pytest.approx(expected, abs=1.0)
    assert all(row.snr_db is None for row in layer_noise(exact.path, exact.path, images[:2]))


def test_ratios_of_a_student_with_an_open_image_size(tmp_path):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="first")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = trained_looking(keras.Model(inputs, keras.layers.Dense(200)(x)))
    given = {"images": _PIXELS / 255, "min_agreement": 0, "snr": True}
    ratios = export_student(model, tmp_path, "tflite-dynamic", **given).layer_noise
    assert [ratios[0].layer, ratios[-1].layer] == ["first", "output"]
    assert ratios[-1].snr_db > 10


def test_a_layer_is_always_zero_only_if_it_is_so_for_all_images():
    inputs = keras.Input((1, 1, 1))
    model = keras.Model(inputs, keras.layers.ReLU(name="relu")(inputs))
    images = np.zeros((17, 1, 1, 1), "float32")
    assert always_zero(model, images)[-1] == "relu"
    images[0] = 1
    assert always_zero(model, images) == []
    images[0], images[16] = 0, 1  # in the second batch
    assert always_zero(model, images) == []


class _Results:
    """The results of a file, given in place of its path."""

    def __init__(self, results, shape):
        self.results, self.operations = results, dict.fromkeys(results, "ADD")

    def run(self, image):
        return {name: np.array(value) * image for name, value in self.results.items()}


def test_operations_of_two_files_are_compared_by_their_names(monkeypatch):
    monkeypatch.setattr(quantization_noise, "_Results", _Results)
    floats = {"same": [3.0], "longer1": [10.0], "shorter": [1.0], "shape": [1.0], "zero": [0.0]}
    received = {"same": [3.0], "longer": [9.0], "shorter1": [1.1], "shape": [1.0, 1.0]}
    received |= {"zero": [1.0], "absent": [1.0]}
    noise = layer_noise(floats, received, np.array([1.0, 2.0]))
    ratios = {row.layer: row.snr_db for row in noise}
    assert [row.operation for row in noise] == ["add"] * 4
    expected = {"same": None, "longer1": 20, "shorter": 20, "zero": None}
    assert ratios == {
        name: value and pytest.approx(value, abs=1e-6) for name, value in expected.items()
    }


def test_tensors_belong_to_layers():
    # TensorFlow may add a number to the name of a layer, or the layer has it itself.
    assert _layer_of("net/conv_1/Conv2D", {"conv"}) == "conv"
    assert _layer_of("net/conv_1/Conv2D", {"conv_1"}) == "conv_1"
    # Of operations that were merged, the last one gives the result.
    assert _layer_of("net/conv/Conv2D;net/add/add", {"conv", "add"}) == "add"
    assert _layer_of("net/conv/Conv2D;constant", set()) == "constant"


@pytest.mark.skipif(
    importlib.util.find_spec("litert_quantizer") is None, reason="litert-quantizer is missing"
)
def test_int4_weights(tmp_path):
    student = with_kd_layers("resnet8", templates=(512, 64))
    given = {"mean": _MEAN, "std": _STD, "images": _PIXELS, "min_agreement": 0}
    exact = export_student(student, tmp_path, "tflite", **given)
    int4 = export_student(student, tmp_path, "tflite-int4", snr=True, **given)
    assert int4.bytes < exact.bytes / 5
    normalized = ((_PIXELS / 255 - np.array(_MEAN)) / np.array(_STD)).astype("float32")
    # Logits of zero would differ by the whole scale.
    assert 0 < int4.max_difference < 0.4 * np.abs(np.asarray(student(normalized))).max()
    assert int4.layer_noise[-1].snr_db > 3


@pytest.mark.skipif(
    importlib.util.find_spec("litert_quantizer") is None, reason="litert-quantizer is missing"
)
def test_precision_of_single_layers(tmp_path):
    student = with_kd_layers("resnet8", templates=(512, 64))
    given = {"mean": _MEAN, "std": _STD, "images": _PIXELS, "min_agreement": 0}
    results = [
        export_student(student, tmp_path, "tflite-int4", precision=precision, **given)
        for precision in (
            None,
            {"kd_*": "int8"},
            {"*": "int8"},
            {"*": "float32", "kd_penultimate_templates": "int8"},
            {"*": "float32"},
        )
    ]
    sizes = [result.bytes for result in results]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)
    # 64 x 512 and 64 x 64 templates and the values of both, half a byte more for each.
    kernels = 64 * 512 + 512 * 5 + 2 * 64 * 64
    assert sizes[1] - sizes[0] == pytest.approx(kernels / 2, rel=0.1)
    exact = export_student(student, tmp_path, "tflite", **given)
    assert sizes[-1] == pytest.approx(exact.bytes, rel=0.01)
    assert results[-1].max_difference == pytest.approx(exact.max_difference, abs=1e-5)
    assert results[2].max_difference < results[0].max_difference


@pytest.mark.skipif(
    importlib.util.find_spec("litert_quantizer") is None, reason="litert-quantizer is missing"
)
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_precision_of_the_last_layer(output, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(64, 3, name="first")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(50, name="last")(x))
    model.layers[1].bias.assign(np.linspace(-1, 1, 64))
    given = {"images": np.ones((4, 8, 8, 3), "float32")}
    sizes = []
    for precision in (None, {"last": "int8"}, {"last": "float32"}):
        verify = {"tflite-int4": {"min_agreement": 0}}
        options = {"precision": precision, "images": given["images"], "output": output}
        results = export_bundle(model, tmp_path, ["tflite-int4"], verify=verify, **options)
        sizes.append(results["tflite-int4"].bytes)
    assert read_card(tmp_path)["artifacts"]["tflite-int4"]["precision"] == {"last": "float32"}
    line = "- `student_int4.tflite`: int4 weights, except float32 of `last`"
    assert line in (tmp_path / "card.md").read_text().splitlines()
    assert sizes[1] - sizes[0] == pytest.approx(64 * 50 / 2, rel=0.2)
    assert sizes[2] - sizes[1] == pytest.approx(64 * 50 * 3, rel=0.2)


@pytest.mark.skipif(
    importlib.util.find_spec("litert_quantizer") is None, reason="litert-quantizer is missing"
)
def test_precision_of_layers_of_similar_names(tmp_path, capsys):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(64, 3, name="not_conv")(inputs)
    x = keras.layers.Conv2D(64, 3, name="conv")(x)
    x = keras.layers.Conv2D(64, 3, name="conv_too")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(50, name="last")(x))
    options = {"images": np.ones((4, 8, 8, 3), "float32"), "min_agreement": 0}
    names = ("not_conv", "conv", "conv_too", "last")
    sizes = [
        export_student(model, tmp_path, "tflite-int4", precision=precision, **options).bytes
        for precision in ({"*": "int4"}, {"conv": "int8"}, {"*": "int8", "conv*": "int4"})
    ]
    kernels = {name: np.prod(model.get_layer(name).kernel.shape) for name in names}
    assert sizes[1] - sizes[0] == pytest.approx(kernels["conv"] / 2, rel=0.02)
    others = kernels["not_conv"] + kernels["last"]
    assert sizes[2] - sizes[0] == pytest.approx(others / 2, rel=0.2)
    assert capsys.readouterr().out == ""


def test_precision_of_a_layer_that_does_not_exist(student, tmp_path):
    with pytest.raises(
        ValueError, match=r"must name layers with kernels.*Received: 'conv9'.*conv1"
    ):
        export_student(student, tmp_path, "tflite-int4", precision={"conv9": "int8"})
    with pytest.raises(ValueError, match="must have values of int4, int8, float32"):
        export_student(student, tmp_path, "tflite-int4", precision={"conv1": "int2"})
    with pytest.raises(
        ValueError, match=r"'avgpool'.* last ones: (\w+, ){4}kd_penultimate_logits$"
    ):
        export_student(student, tmp_path, "tflite-int4", precision={"avgpool": "int8"})


def test_all_formats_are_those_whose_packages_are_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "tflite-int4" in formats.names()
    # What the extra `export` installs is asked for.
    others = [name for name in formats.names() if name != "tflite-int4"]
    assert formats.expand(["all"]) == others
    assert formats.expand(["tflite-int4"]) == ["tflite-int4"]


def test_int4_without_its_package(student, tmp_path):
    if importlib.util.find_spec("litert_quantizer") is not None:
        pytest.skip("litert-quantizer is installed")
    with pytest.raises(ImportError, match=r"needs litert-quantizer: pip install"):
        export_student(student, tmp_path, "tflite-int4")
