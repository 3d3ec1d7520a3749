"""What a grid does with its cells, on cells that cost nothing; `test_compare` trains some."""

import csv
import re

import pytest
from PIL import Image

from letkd_keras.recipes import compare, grid, stages
from letkd_keras.recipes.training import finish, finished

OPTIONS = ["--pair", "digits", "--epochs", "1", "--train-examples", "40", "--batch-size", "20"]


def _experiment(names, *options):
    return compare.experiment_of(compare.parse([*OPTIONS, *options]), names)


@pytest.fixture
def cells(monkeypatch):
    """Cells as they are trained; those in `failing` fail."""
    trained, failing = [], set()

    def student(experiment, taps, method, seed, teacher, prototypes, folder, verbose):
        trained.append((method, seed))
        place = stages.student_folder(folder, method, seed)
        place.mkdir(parents=True, exist_ok=True)
        if (method, seed) in failing:
            raise RuntimeError(f"{method} burst\nand more")
        accuracies = {"accuracy_last": 60.0 + 10 * seed, "accuracy_best": 90.0}
        if experiment.data.x_validation is not None:
            accuracies = {"accuracy_chosen": 50.0, "accuracy_validation": 55.0}
        numbers = {"parameters": 1234, "parameters_plain": 1000, "seconds": 3.0}
        finish(place, {**accuracies, **numbers})

    teacher = {"accuracy_last": 99.0, "parameters": 5000}
    monkeypatch.setattr(stages, "check", lambda experiment: None)
    monkeypatch.setattr(stages, "teacher", lambda *args: (None, teacher))
    monkeypatch.setattr(stages, "prototypes", lambda *args: None)
    monkeypatch.setattr(stages, "student", student)
    return trained, failing


def test_trials_are_whole_before_the_next_begins(cells, tmp_path):
    grid.run(_experiment(["student", "kd"], "--trials", "2"), tmp_path / "grid")
    assert cells[0] == [("student", 0), ("kd", 0), ("student", 1), ("kd", 1)]


def test_methods_and_trials_are_added_without_touching_what_is_done(cells, tmp_path):
    trained, _ = cells
    grid.run(_experiment(["kd"]), tmp_path / "grid")
    before = (tmp_path / "grid" / "kd" / "seed0" / "result.json").stat().st_mtime_ns
    rows = grid.run(_experiment(["student"], "--trials", "2"), tmp_path / "grid")
    assert trained == [("kd", 0), ("student", 0), ("student", 1)]
    assert (tmp_path / "grid" / "kd" / "seed0" / "result.json").stat().st_mtime_ns == before
    # The table is of all that the folder has.
    assert [(row["method"], row["trials"]) for row in rows] == [("student", 2), ("kd", 1)]
    with pytest.raises(ValueError, match=r"another configuration \(templates: 64 there, 32 now\)"):
        grid.run(_experiment(["kd"], "--templates", "32"), tmp_path / "grid")


def test_a_failing_cell_is_recorded_and_tried_again(cells, tmp_path):
    trained, failing = cells
    failing.add(("kd", 0))
    out = tmp_path / "grid"
    rows = grid.run(_experiment(["kd", "student"]), out)
    assert [(row["method"], row["trials"], row["failed"]) for row in rows] == [
        ("student", 1, 0),
        ("kd", 0, 1),
    ]
    assert "RuntimeError: kd burst" in (out / "kd" / "seed0" / "error.txt").read_text()
    text = (out / "table.md").read_text()
    assert "| KD | 0 (1 failed) | - | - |" in text
    assert "- KD, seed 0: `RuntimeError: kd burst`" in text
    failing.clear()
    (row,) = [row for row in grid.run(_experiment(["kd"]), out) if row["method"] == "kd"]
    assert trained[-1] == ("kd", 0) and (row["trials"], row["failed"]) == (1, 0)
    assert not (out / "kd" / "seed0" / "error.txt").exists()
    assert "failed" not in (out / "table.md").read_text()


def test_the_table_in_all_its_forms(cells, tmp_path):
    out = tmp_path / "grid"
    grid.run(_experiment(["letkd2+kd", "student"], "--trials", "3"), out)
    text = (out / "table.md").read_text()
    # 60, 70, 80: the standard deviation is that of a sample.
    row = "| letKD-2 + KD | 3 | 70.00 ± 10.00 | 90.00 ± 0.00 | - | 1,234 | 1,000 | 3 s |"
    assert row in text
    assert "40 training and 599 test images (stratified, 1198 training and 599 test" in text
    assert "chosen on the test set, as the papers do" in text
    with (out / "table.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["method"], second["method"]) == ("student", "letkd2+kd")
    assert float(second["accuracy_last_std"]) == 10 and second["published"] == ""
    assert Image.open(out / "table.png").width > 500


def test_with_a_validation_set_the_table_says_what_was_chosen_by_what(cells, tmp_path):
    experiment = _experiment(["kd"], "--validation-fraction", "0.5")
    assert experiment.data.train_examples == 20
    grid.run(experiment, tmp_path / "grid")
    text = (tmp_path / "grid" / "table.md").read_text()
    assert "20 training images held out for validation" in text
    assert "| KD | 1 | 50.00 | 55.00 |" in text
    assert "the test set is read once" in text and "as the papers do" not in text


def test_published_numbers_stand_beside_ours_where_the_data_are_the_papers(
    cells, tmp_path, monkeypatch
):
    from letkd_keras.data import load_digits

    monkeypatch.setattr("letkd_keras.data.load_cifar", lambda name, folder: load_digits())
    options = ["--pair", "resnet56-resnet20", "--templates", "64"]
    grid.run(_experiment(["letkd_i1p0"], *options), tmp_path / "whole")
    assert re.search(
        r"penultimate alpha 0 \|.*\| 72.78 \|", (tmp_path / "whole/table.md").read_text()
    )
    grid.run(_experiment(["kd"], *options, "--classes", "3"), tmp_path / "reduced")
    text = (tmp_path / "reduced" / "table.md").read_text()
    assert "first 3 classes" in text and "70.66" not in text


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["letkd3"], [], "`method` must be one of student, kd, fitnet"),
        (["student+kd"], [], "KD cannot be added to student"),
        (["kd"], ["--pair", "resnet56-resnet2"], "`pair` must be one of"),
        (["kd"], ["--classes", "11"], "`classes` must be between 2 and 10"),
        (["kd"], ["--validation-fraction", "1"], "`fraction` must be more than 0 and less than 1"),
        (["kd"], ["--trials", "0"], "`trials` must be at least 1"),
        (["quest"], ["--templates", "2561"], "at most the 2560 feature vectors"),
    ],
)
def test_what_cannot_run_is_refused_before_the_folder_is_made(names, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        grid.run(_experiment(names, *options), tmp_path / "grid")
    assert not (tmp_path / "grid").exists()


def test_a_finished_cell_is_not_opened_again(cells, tmp_path):
    trained, _ = cells
    for _ in range(2):
        grid.run(_experiment(["kd"]), tmp_path / "grid")
    assert trained == [("kd", 0)]
    assert finished(tmp_path / "grid" / "kd" / "seed0")["accuracy_last"] == 60
