"""Artifacts in a process of their own."""

import importlib
import sys

import numpy as np
import pytest

from letkd_keras.export import new_process
from letkd_keras.export.comparison import ExportMismatch
from letkd_keras.export.formats import reload


@pytest.mark.parametrize(
    ("runtime", "package"),
    [
        ("savedmodel", "letkd_keras"),
        ("classify", "keras"),
        ("tflite", "tensorflow"),
        ("onnx", "tensorflow"),
    ],
)
def test_an_artifact_cannot_use_what_a_device_does_not_have(
    runtime, package, tmp_path, monkeypatch
):
    for name in ("letkd_keras", "keras", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name))

    def load(artifact, threads):
        importlib.import_module(package)

    monkeypatch.setitem(reload.RUNTIMES, runtime, load)
    np.save(tmp_path / "images.npy", np.zeros((1, 2)))
    files = (str(tmp_path / "images.npy"), str(tmp_path / "outputs.npy"))
    with pytest.raises(ModuleNotFoundError, match=package):
        reload.main("artifact", "1", "0", runtime, *files)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import beside", "status 1: .*No module named 'beside'"),
        ("import os; os.kill(os.getpid(), 9)", "status -9: $"),
        ("import sys; sys.exit(f'user: {sys.flags.no_user_site}')", "status 1: user: 0$"),
        (
            "import sys; sys.exit('a\\n' * 9 + sys.argv[1])",
            "status 1: (a\\n){{4}}{folder}/artifact$",
        ),
    ],
)
def test_a_process_that_fails(program, reason, tmp_path, monkeypatch):
    for name, text in (("reload.py", program), ("beside.py", "")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(new_process, "_RELOAD", tmp_path / "reload.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    message = "(?s)^artifact cannot be reloaded .* ended with " + reason.format(folder=tmp_path)
    with pytest.raises(ExportMismatch, match=message):
        new_process.reload_outputs("tflite", "artifact", np.zeros((1, 2)))


def test_latency_is_that_of_the_fastest_run_in_milliseconds(monkeypatch):
    def reload(artifact, images, threads, repeats):
        assert (artifact, images, threads, repeats) == ("a", {"onnx": "images"}, 2, 3)
        return {"onnx": np.array([0.25, 0.125, 0.5])}

    monkeypatch.setattr(new_process, "reload_in_one_process", reload)
    assert new_process.latency_ms("onnx", "a", "images", 2, 3) == 125


def test_images_are_rounded_and_clipped_to_the_integers_of_an_input():
    details = {"dtype": np.uint8, "quantization": (0.5, 10)}
    images = np.array([-10, 0.26, 0.74, 0.76, 300], "float32")
    integers = reload.to_input(images, details)
    assert integers.dtype == np.uint8
    np.testing.assert_array_equal(integers, [0, 11, 11, 12, 255])
    assert reload.to_input(images, {"dtype": np.float32}) is images


def test_outputs_of_integers_are_real_numbers():
    values = np.array([-128, 0, 127], "int8")
    real = reload.to_real(values, {"quantization": (0.25, -28)})
    np.testing.assert_array_equal(real, [-25, 7, 38.75])
    assert real.dtype == np.float32
    np.testing.assert_array_equal(reload.to_real(values, {"quantization": (0.0, 0)}), values)
