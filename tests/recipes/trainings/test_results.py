import json

import pytest

from letkd_keras.recipes.trainings import results


def test_json_with_a_checksum(tmp_path):
    file = tmp_path / "a.json"
    results.write_checked_json(file, {"x": [1.5, None], "y": {"z": "ü"}})
    assert results.read_checked_json(file) == {"x": [1.5, None], "y": {"z": "ü"}}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("71.25", "77.25"),
        lambda text: "[]",
        lambda text: "",
        lambda text: json.dumps({"accuracy_last": 71.25}),
    ],
)
def test_a_damaged_result_is_named_with_the_remedy(damage, tmp_path):
    folder = results.student_folder(tmp_path, "kd", 3)
    folder.mkdir(parents=True)
    assert results.finished(folder) is None
    file = folder / "result.json"
    results.write_checked_json(file, {"accuracy_last": 71.25})
    assert results.finished(folder) == {"accuracy_last": 71.25}
    file.write_text(damage(file.read_text()))
    with pytest.raises(ValueError, match=r"result.json is damaged.*Delete the folder .*kd.seed3 "):
        results.finished(folder)


def test_with_a_damaged_teacher_its_students_are_to_be_deleted(tmp_path):
    remedy = "Delete the folder .*teacher and those of students that were trained under"
    with pytest.raises(ValueError, match=remedy):
        results.check_file(tmp_path / "teacher" / "teacher.keras", "0")


@pytest.mark.parametrize("text", ["epoch,loss\n0,1.5\n1,", "epoch,loss\n0,1.5\n1,x\n"])
def test_damaged_metrics_are_named(text, tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,loss\n0,1.5\n1,0.5\n")
    assert results.read_metrics(file) == [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 0.5}]
    file.write_text(text)
    with pytest.raises(ValueError, match=r"metrics.csv is damaged or missing"):
        results.read_metrics(file)


def test_mean_and_sample_standard_deviation():
    assert results.mean_and_std([60, 70, 80]) == (70, 10)
    assert results.mean_and_std([60]) == (60, None)
    assert results.mean_and_std([]) == (None, None)
    assert results.spread(70, 10) == "70.00 ± 10.00"
    assert results.spread(70) == "70.00"
    assert results.spread(None) == "-"


def test_what_images_selected():
    assert "selected on the validation images" in results.selection(True)
    assert "selected on the test images" in results.selection(False)
    assert results.accuracy_of({"accuracy_selected": 1, "accuracy_last": 2}) == 1
