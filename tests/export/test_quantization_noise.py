import importlib.util

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from random_students import with_kd_layers

from letkd_keras.export import export_bundle, export_student, formats
from letkd_keras.export.card import read_card
from letkd_keras.export.quantization_noise import layer_noise

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
    assert listed == [noise.as_json() for noise in int8.layer_noise]
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


@pytest.mark.skipif(
    importlib.util.find_spec("litert_quantizer") is None, reason="litert-quantizer is missing"
)
def test_int4_weights(tmp_path):
    student = with_kd_layers("resnet8", templates=(512, 64))
    given = {"mean": _MEAN, "std": _STD, "images": _PIXELS, "min_agreement": 0}
    exact = export_student(student, tmp_path, "tflite", **given)
    int4 = export_student(student, tmp_path, "tflite-int4", snr=True, **given)
    assert int4.bytes < exact.bytes / 5
    assert int4.max_difference < np.inf
    assert int4.layer_noise[-1].snr_db > 3


def test_all_formats_are_those_whose_packages_are_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "tflite-int4" in formats.names()
    assert "tflite-int4" not in formats.expand(["all"])
    assert formats.expand(["tflite-int4"]) == ["tflite-int4"]


def test_int4_without_its_package(student, tmp_path):
    if importlib.util.find_spec("litert_quantizer") is not None:
        pytest.skip("litert-quantizer is installed")
    with pytest.raises(ImportError, match=r"needs litert-quantizer: pip install"):
        export_student(student, tmp_path, "tflite-int4")
