import json

import pytest

from letkd_keras.recipes.trainings import training_folder


def test_json_with_a_checksum(tmp_path):
    file = tmp_path / "a.json"
    training_folder.write_checked_json(file, {"x": [1.5, None], "y": {"z": "ü"}})
    assert training_folder.read_checked_json(file) == {"x": [1.5, None], "y": {"z": "ü"}}


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
    folder = training_folder.student_folder(tmp_path, "kd", 3)
    folder.mkdir(parents=True)
    assert training_folder.finished(folder) is None
    file = folder / "result.json"
    training_folder.write_checked_json(file, {"accuracy_last": 71.25})
    assert training_folder.finished(folder) == {"accuracy_last": 71.25}
    file.write_text(damage(file.read_text()))
    with pytest.raises(ValueError, match=r"result.json is damaged.*Delete the folder .*kd.seed3 "):
        training_folder.finished(folder)


def test_with_a_damaged_teacher_its_students_are_to_be_deleted(tmp_path):
    remedy = "Delete the folder .*teacher and those of students that were trained under"
    with pytest.raises(ValueError, match=remedy):
        training_folder.check_file(tmp_path / "teacher" / "teacher.keras", "0")


@pytest.mark.parametrize(
    "text", ["", "loss\n1.5\n", "epoch,loss\n0,1.5\n1,", "epoch,loss\n0,1.5\n1,x\n"]
)
def test_damaged_metrics_are_named(text, tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,loss\n0,1.5\n1,0.5\n")
    assert training_folder.read_metrics(file) == [
        {"epoch": 0, "loss": 1.5},
        {"epoch": 1, "loss": 0.5},
    ]
    file.write_text(text)
    with pytest.raises(ValueError, match=r"metrics.csv is damaged or missing"):
        training_folder.read_metrics(file)


def test_trainings_are_in_the_order_of_their_seeds(tmp_path):
    for seed in (10, 2, 0):
        training_folder.student_folder(tmp_path, "kd", seed).mkdir(parents=True)
    assert [seed for _, seed, _ in training_folder.student_trainings(tmp_path)] == [0, 2, 10]


def test_a_failure_is_the_first_line_of_its_file(tmp_path):
    assert training_folder.failure(tmp_path) is None
    (tmp_path / "error.txt").write_text("ValueError: no\n\nTraceback")
    assert training_folder.failure(tmp_path) == "ValueError: no"
    (tmp_path / "error.txt").write_text("")
    assert training_folder.failure(tmp_path) == "unknown error"
