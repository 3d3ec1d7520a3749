import importlib.util
from types import SimpleNamespace

from letkd_keras.recipes import exporting


def test_no_costs_without_what_runs_tflite(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    experiment = SimpleNamespace(formats=("savedmodel",), export_method="kd", methods=("kd",))
    assert exporting.costs(experiment, tmp_path) == ([], 0)
    assert "no table of costs: The format tflite needs ai-edge-litert" in caplog.text
