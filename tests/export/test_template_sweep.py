import json

import numpy as np
import pytest

from letkd_keras.export import export_bundle
from letkd_keras.export.card import read_card
from letkd_keras.export.cost_report import CostRow, without_kd_layers
from letkd_keras.export.evaluation_images import SelectionImages
from letkd_keras.export.reduction import reduce_templates
from letkd_keras.export.template_sweep import sweep, write_sweep


@pytest.fixture
def selection(images, labels):
    return SelectionImages(images, labels, images.repeat(2, axis=0), "six images of noise")


def _measured(monkeypatch, top1, selection_top1):
    """Replace the measurements by accuracies by form."""

    def measure(model, form, format, *, selection, name, labels=None, **options):
        known = selection is not None
        assert len(options["calibration"]) == 12  # some formats need it
        return CostRow(
            *(name, form, format, 10, 1000, 1000, 1.0, 1.0, 1.0),
            top1=top1[form] if labels is not None else None,
            selection_top1=selection_top1[form] if known else None,
        )

    monkeypatch.setattr("letkd_keras.export.template_sweep.measure", measure)


_SELECTION = {"folded": 90.0, "reduced-8": 89.9, "reduced-4": 89.8, "reduced-2": 89.0}


def test_smallest_number_within_the_loss_is_selected(student, selection, monkeypatch):
    _measured(monkeypatch, {}, _SELECTION)
    result = sweep(student, selection, templates=(2, 4, 8), max_loss=0.25)
    assert [row.form for row in result.rows] == ["plain", *_SELECTION]
    assert {row.model for row in result.rows} == {student.name}
    assert result.selected.form == "reduced-4"
    assert result.model.get_layer("kd_penultimate_templates").filters == 4
    assert sweep(student, selection, templates=(2,), max_loss=0.1).selected.form == "folded"
    # In binary, 32.1 - 0.2 is more than 31.9.
    _measured(monkeypatch, {}, {"folded": 32.1, "reduced-4": 31.9})
    tuned = []
    monkeypatch.setattr(
        "letkd_keras.export.template_sweep.fine_tune", lambda *_, **options: tuned.append(options)
    )
    seeds = []

    def reduce(*arguments, seed):
        seeds.append(seed)
        return reduce_templates(*arguments, seed=seed)

    monkeypatch.setattr("letkd_keras.export.template_sweep.reduce_templates", reduce)
    result = sweep(student, selection, templates=(4,), max_loss=0.2, fine_tune_epochs=2, seed=3)
    assert result.selected.form == "reduced-4"
    assert (tuned, seeds) == ([{"epochs": 2, "seed": 3}], [3])


def test_numbers_that_leave_the_student_as_it_is_are_not_tried(
    student, selection, monkeypatch, caplog
):
    _measured(monkeypatch, {}, {**_SELECTION, "reduced-23": 90.0})
    caplog.set_level("INFO")
    result = sweep(student, selection, templates=(64, 4, 24, 23), max_loss=0.1)
    assert [row.form for row in result.rows[2:]] == ["reduced-23", "reduced-4"]
    assert "not tried, since no KD layer has more than 24 templates: 64, 24" in caplog.text
    assert result.selected.form == "reduced-23"
    assert result.templates == {"kd_penultimate": 23, "kd_intermediate": 16}
    folded = sweep(student, selection, templates=(2,), max_loss=0.1)
    assert folded.templates == {"kd_penultimate": 24, "kd_intermediate": 16}
    with pytest.raises(ValueError, match=r"`templates` must have a number less than 24.*64, 24"):
        sweep(student, selection, templates=(24, 64))


def test_test_images_select_nothing(student, images, labels, selection, monkeypatch):
    # On the test images, two templates would be the best and four the worst.
    top1 = {"folded": 70.0, "reduced-8": 60.0, "reduced-4": 50.0, "reduced-2": 99.0}
    _measured(monkeypatch, top1, _SELECTION)
    result = sweep(student, selection, images, labels, templates=(2, 4, 8), max_loss=0.25)
    assert result.selected.form == "reduced-4"
    assert result.selected.top1 == 50


def test_accuracies_are_those_of_the_images_given(student, images, labels, selection):
    wrong = (labels + 1) % 5
    result = sweep(student, selection, images, wrong, templates=(23,), repeats=1)
    assert [row.selection_top1 for row in result.rows] == [None, 100, 100]
    assert [row.top1 for row in result.rows] == [None, 0, 0]


def test_folder_of_a_sweep_is_exported(student, images, labels, selection, tmp_path, monkeypatch):
    top1 = {"folded": 80.0, "reduced-4": 79.0, "reduced-2": 78.0}
    _measured(monkeypatch, top1, _SELECTION)
    result = sweep(student, selection, images, labels, templates=(2, 4), max_loss=0.25)
    training = {"run": "a run", "config": {"pair": "a-b"}}
    write_sweep(result, tmp_path, data={"source": "digits"}, training=training)
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert written["data"] == {"source": "digits"}
    assert written["reduced"]["form"] == "reduced-4"
    text = (tmp_path / "sweep.md").read_text()
    assert "Selected: 4 templates, on six images of noise." in text
    assert "| top-1 for selection | test top-1 |" in text
    assert {file.name for file in tmp_path.iterdir()} == {
        *("sweep.json", "sweep.md", "sweep.png", "reduced.keras")
    }
    export_bundle(tmp_path, tmp_path / "out", ("tflite",), images=images)
    reduced = read_card(tmp_path / "out")["training"]["reduced"]
    assert reduced["selected_on"] == "six images of noise"
    assert (reduced["selection_top1"], reduced["selection_top1_whole"]) == (89.8, 90.0)
    assert (reduced["top1"], reduced["top1_whole"]) == (79.0, 80.0)
    assert [row["form"] for row in written["rows"]] == ["plain", *top1]
    assert [layer["after"] for layer in reduced["kd_layers"]] == ["intermediate", "penultimate"]
    assert reduced["templates"] == {"kd_penultimate": 4, "kd_intermediate": 4}
    card = (tmp_path / "out" / "card.md").read_text()
    assert f"- Parameters: {result.model.count_params():,} reduced" in card.splitlines()
    assert "reduced-4, selected on six images of noise, with an accuracy of 89.80%" in card
    assert (
        "- KD layer `kd_penultimate` was after `penultimate`, with 24 templates and alpha 1; 4 of "
        "them were kept"
    ) in card.splitlines()


def test_a_sweep_that_is_killed_leaves_no_provenance_of_another_model(
    student, selection, tmp_path, monkeypatch
):
    _measured(monkeypatch, {}, _SELECTION)
    result = sweep(student, selection, templates=(2, 4), max_loss=0.25)
    write_sweep(result, tmp_path)
    monkeypatch.setattr("letkd_keras.export.template_sweep.write_json", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_sweep(result, tmp_path)
    assert not (tmp_path / "sweep.json").exists()


def _interrupted(*arguments):
    raise KeyboardInterrupt


def test_wrong_inputs(student, images, labels, selection):
    with pytest.raises(ValueError, match="`model` must have KD layers"):
        sweep(without_kd_layers(student), selection)
    with pytest.raises(ValueError, match="`max_loss` must be a finite number of at least 0"):
        sweep(student, selection, max_loss=-1)
    with pytest.raises(ValueError, match="`fine_tune_epochs` must be an integer of at least 0"):
        sweep("absent.keras", selection, fine_tune_epochs=-1)
    with pytest.raises(ValueError, match="`format` must be one of savedmodel"):
        sweep("absent.keras", selection, format="tfllite")
    unlabelled = SelectionImages(images, None, images, "")
    with pytest.raises(ValueError, match="`selection` must have labels"):
        sweep(student, unlabelled)
    of_other_classes = SelectionImages(images, np.full(6, 7), images, "")
    with pytest.raises(ValueError, match="`labels` must be integers from 0 to 4"):
        sweep(student, of_other_classes)
    few = SelectionImages(images, labels, images, "")
    with pytest.raises(ValueError, match=r"`calibration` must be at least ten images.*: 6 images"):
        sweep(student, few)
