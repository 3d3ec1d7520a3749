import json

import inference
import pytest
from PIL import Image

from letkd_keras import KDLayer, insert_kd_layers, models
from letkd_keras.commands.run_folder import RunFolder
from letkd_keras.data import DataSpec

_FEW = ["--formats", "tflite", "--repeats", "2"]


def test_forms_of_a_network_of_the_zoo(tmp_path, capsys):
    templates = ["--penultimate", "64", "--intermediate", "16", "--templates", "8"]
    options = ["--models", "resnet8", "--model-classes", "10", *templates, "--out", str(tmp_path)]
    rows = inference.main([*options, *_FEW])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "{"]
    assert [line["form"] for line in lines] == ["plain", "trained", "folded", "reduced-8"]
    fields = ("model", "form", "format", "params", "macs", "bytes", "latency_ms_1", "latency_ms_2")
    assert all(
        {*fields, "latency_ms_batch32", "top1", "selection_top1"} == set(line) for line in lines
    )
    plain, trained, folded, reduced = rows
    # Two layers on 64 channels; pooled and folded values are computed once an image.
    assert trained.macs - plain.macs == 64 * 2 * 64 * (64 + 16)
    assert folded.macs - plain.macs == 64 * 64 * (64 + 2 * 16) + 64 * 10
    assert plain.params < reduced.params < folded.params < trained.params
    assert {row.top1 for row in rows} == {None}
    assert "| 8 templates |" in (tmp_path / "inference.md").read_text()


def test_a_run_has_accuracies(tmp_path):
    plain = models.build("resnet8", num_classes=10, input_shape=(32, 32, 3))
    student = insert_kd_layers(plain, KDLayer(16, name="kd_penultimate"))
    spec = DataSpec("digits")
    data = {**spec.config(), "digest": spec.open().digest}
    config = {"export_method": "letkd1", "seed": 0, "data": data}
    run = RunFolder(tmp_path / "run", config).path
    for method, model in (("student", plain), ("letkd1", student)):
        (run / method / "seed0").mkdir(parents=True)
        model.save(run / method / "seed0" / "student.keras")
    options = ["--run", str(run), "--templates", "16", "--out", str(tmp_path)]
    rows = inference.main([*options, "--check-images", "50", *_FEW])
    # The student has 16 templates: there is nothing to reduce.
    assert [row.form for row in rows] == ["plain", "trained", "folded"]
    assert rows[1].top1 == rows[2].top1 == pytest.approx(round(rows[1].top1 / 2) * 2)
    assert Image.open(tmp_path / "inference.png").width > 500


def test_a_student_without_kd_layers_has_no_templates_to_reduce(tmp_path):
    plain = models.build("resnet8", num_classes=10, input_shape=(32, 32, 3))
    spec = DataSpec("digits")
    data = {**spec.config(), "digest": spec.open().digest}
    run = RunFolder(tmp_path / "run", {"export_method": "kd", "seed": 0, "data": data}).path
    (run / "kd" / "seed0").mkdir(parents=True)
    plain.save(run / "kd" / "seed0" / "student.keras")
    rows = inference.main(["--run", str(run), "--out", str(tmp_path), *_FEW])
    assert [row.form for row in rows] == ["trained", "folded"]


def test_a_student_without_a_run_needs_data(tmp_path):
    models.build("resnet8", num_classes=10, input_shape=(32, 32, 3)).save(
        tmp_path / "student.keras"
    )
    with pytest.raises(ValueError, match="`run` must be a run folder, or `data` be given"):
        inference.main(["--run", str(tmp_path / "student.keras"), *_FEW])
