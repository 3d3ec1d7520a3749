import json
from argparse import Namespace

import numpy as np
import pytest

from letkd_keras import models
from letkd_keras.export import export_bundle, fold
from letkd_keras.export.card import read_card
from letkd_keras.export.command_line import data_name
from letkd_keras.export.cost_report import (
    CostRow,
    forms_of,
    measure,
    plot,
    table,
    without_kd_layers,
)
from letkd_keras.export.sweep import sweep, write_sweep


def _row(form, size, latency, top1=50.0):
    return CostRow("net", form, "tflite", 10, 1000, size, latency, latency, latency, top1)


def test_a_row_counts_the_form_that_is_measured(student, images):
    folded = fold(student, images=images)
    labels = folded.predict(images, verbose=0).argmax(-1)
    row = measure(folded, "folded", "tflite", images=images, labels=labels, repeats=2)
    assert row.params == folded.count_params()
    assert row.bytes > 4 * row.params
    assert row.top1 == 100
    assert min(row.latency_ms_1, row.latency_ms_2) > 0
    assert row.latency_ms_batch32 > row.latency_ms_1


def test_plain_form_is_the_network_without_its_kd_layers(student):
    plain = without_kd_layers(student)
    network = models.build("resnet8", num_classes=5, input_shape=(16, 16, 3))
    assert [layer.name for layer in plain.layers] == [layer.name for layer in network.layers]
    assert plain.count_params() == network.count_params()


def test_table_tells_the_overhead_over_the_plain_form():
    text = table([_row("plain", 1000, 2.0, None), _row("folded", 1250, 2.2)])
    plain, folded = text.strip().splitlines()[2:]
    assert plain.endswith("| - | - |")
    assert folded.endswith("| 50.00% | +25%, +10% |")


def test_plot_is_an_image(tmp_path):
    plot([_row("plain", 1000, 2.0), _row("folded", 1250, 2.2)], tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_sweep_chooses_the_fewest_within_the_loss(student, images, tmp_path, monkeypatch):
    accuracies = {
        "plain": None,
        "folded": 90.0,
        "reduced-8": 89.9,
        "reduced-4": 89.8,
        "reduced-2": 89.0,
    }
    monkeypatch.setattr(
        "letkd_keras.export.sweep.measure",
        lambda model, form, format, **given: _row(form, 1000, 1.0, accuracies[form]),
    )
    calibration = images.repeat(2, axis=0)
    labels = [0] * len(images)
    result = sweep(student, calibration, images, labels, counts=(2, 4, 8), max_loss=0.25)
    assert [row.form for row in result.rows] == list(accuracies)
    assert result.chosen.form == "reduced-4"
    assert result.model.get_layer("kd_penultimate_templates").filters == 4
    training = {"run": "a run", "config": {"pair": "a-b"}}
    write_sweep(result, tmp_path, data="digits", training=training)
    assert json.loads((tmp_path / "sweep.json").read_text())["chosen"] == "reduced-4"
    assert "Chosen: reduced-4" in (tmp_path / "sweep.md").read_text()
    assert {file.name for file in tmp_path.iterdir()} == {
        "sweep.json",
        "sweep.md",
        "sweep.png",
        "reduced.keras",
    }
    result = sweep(student, calibration, images, labels, counts=(2,), max_loss=0.1)
    assert result.chosen.form == "folded"
    # The folder is exported like a run's, and the card tells what was done to the run's student.
    assert data_name(Namespace(data=None, model=tmp_path)) == "digits"
    export_bundle(tmp_path, tmp_path / "out", ("tflite",), images=images)
    told = {"form": "reduced-4", "top1": 89.8, "whole": 90.0}
    assert read_card(tmp_path / "out")["training"] == {**training, "reduced": told}
    assert "reduced-4, top-1 89.80% where all" in (tmp_path / "out" / "card.md").read_text()


def test_forms_of_a_student(student, images):
    labels = np.zeros(len(images), int)
    forms = forms_of(student, images, labels)
    assert list(forms) == ["plain", "trained", "folded"]
    # The network without its KD layers was never trained as such: it has no accuracy.
    assert forms["plain"][1] is None
    assert forms["trained"] == (student, labels)
    plain = without_kd_layers(student)
    model, known = forms_of(student, images, labels, plain)["plain"]
    assert known is labels
    assert model.count_params() == fold(plain, images=images).count_params()
    assert list(forms_of(plain, images)) == ["trained", "folded"]


def test_wrong_inputs_of_a_sweep(student, images):
    with pytest.raises(ValueError, match="`model` must have KD layers"):
        sweep(without_kd_layers(student), images, images, [0] * 6)
    with pytest.raises(ValueError, match="`max_loss` must be 0 or more"):
        sweep(student, images, images, [0] * 6, max_loss=-1)
    with pytest.raises(ValueError, match="`labels` must be given"):
        sweep(student, images, images, None)
