"""Artifacts in a process of their own."""

import importlib
import sys

import numpy as np
import pytest

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
