import importlib.util
from types import SimpleNamespace

from small_image_data import image_data

from letkd_keras.export import ExportMismatch
from letkd_keras.recipes import exporting


def test_no_costs_without_what_runs_tflite(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    experiment = SimpleNamespace(formats=("savedmodel",), export_method="kd", methods=("kd",))
    assert exporting.costs(experiment, tmp_path) == []
    assert "no table of costs: The format tflite needs ai-edge-litert" in caplog.text


def test_a_refused_format_does_not_stop_the_run(tmp_path, monkeypatch, caplog):
    def refuse(model, path, formats, **options):
        raise ExportMismatch("onnx: no such layer\ntflite-int8 of 'a' differs", {"tflite": "it"})

    monkeypatch.setattr(exporting, "export_bundle", refuse)
    experiment = SimpleNamespace(
        data=image_data(),
        formats=("tflite", "onnx", "tflite-int8"),
        export_method="kd",
        methods=("kd",),
        seed=0,
    )
    assert exporting.export(experiment, tmp_path) == {"tflite": "it"}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "not exported: onnx: no such layer",
        "not exported: tflite-int8 of 'a' differs",
    ]
