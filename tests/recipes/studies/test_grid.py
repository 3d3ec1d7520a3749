"""What a grid does with its cells, with cells that cost nothing; `test_compare` trains some."""

import csv
import json
import re
import runpy
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from image_trees import write_tree
from PIL import Image

from letkd_keras.recipes import compare
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.published import Accuracy
from letkd_keras.recipes.recipe_command import exit_status
from letkd_keras.recipes.recipe_of_data import settings_of
from letkd_keras.recipes.reports import method_table
from letkd_keras.recipes.studies import grid
from letkd_keras.recipes.trainings import sharing, training_folder
from letkd_keras.recipes.trainings.training_state import finish

SMALL = "--epochs 1 --train-examples 40 --batch-size 20"


def _experiment(methods, text=""):
    options = compare.parse([*SMALL.split(), *text.split(), "--methods", *methods])
    return experiment_of(options, settings_of(options))


@pytest.fixture
def cells(monkeypatch):
    """Cells as they are trained; those in `failing` fail."""
    trained, failing = [], set()

    def student(experiment, method, seed, teacher, prototypes, folder):
        trained.append((method, seed))
        training = training_folder.student_folder(folder, method, seed)
        if (method, seed) in failing:
            raise RuntimeError(f"{method} burst\nand more")
        accuracies = {"accuracy_last": 60.0 + 10 * seed, "accuracy_best": 90.0}
        if experiment.data.has_validation:
            accuracies = {"accuracy_selected": 50.0, "accuracy_validation": 55.0}
        numbers = {"parameters": 1234, "parameters_plain": 1000, "seconds": 3.0, "epochs": 240}
        finish(training, {**accuracies, **numbers})

    # Neither networks nor pictures are needed.
    levels = {"penultimate": 1, "intermediate": 1}
    monkeypatch.setattr(grid, "prepare", lambda e: replace(e, pool_sizes=levels))
    monkeypatch.setattr(method_table, "_plot", lambda *args: None)
    teacher = {"accuracy_last": 99.0, "parameters": 5000}
    monkeypatch.setattr(grid, "train_teacher", lambda *args: (None, teacher))
    monkeypatch.setattr(grid, "prototypes_of", lambda *args: None)
    monkeypatch.setattr(grid, "train_student", student)
    return trained, failing


def test_a_trial_is_finished_before_the_next_begins(cells, tmp_path):
    grid.run(_experiment(["student", "kd"], "--trials 2"), tmp_path / "grid")
    assert cells[0] == [("student", 0), ("kd", 0), ("student", 1), ("kd", 1)]


def test_prototypes_are_fitted_for_methods_that_may_be_added(cells, tmp_path, monkeypatch):
    fitted = []
    monkeypatch.setattr(grid, "prototypes_of", lambda *arguments: fitted.append(arguments[-1]))
    for method in ("letkd1", "kd"):
        grid.run(_experiment([method]), tmp_path / method)
    assert fitted == [("penultimate", "intermediate"), ()]


def test_methods_and_trials_are_added_and_finished_cells_kept(cells, tmp_path):
    trained, _ = cells
    out = tmp_path / "grid"
    grid.run(_experiment(["kd"]), out)
    before = (out / "kd" / "seed0" / "result.json").stat().st_mtime_ns
    rows = grid.run(_experiment(["student"], "--trials 2"), out)
    assert trained == [("kd", 0), ("student", 0), ("student", 1)]
    assert (out / "kd" / "seed0" / "result.json").stat().st_mtime_ns == before
    # The table has all methods of the folder.
    assert [(row["method"], row["trials"]) for row in rows] == [("student", 2), ("kd", 1)]
    with pytest.raises(ValueError, match=r"other settings: templates: 64 before, 32 now"):
        grid.run(_experiment(["kd"], "--templates 32"), out)


def test_a_failed_cell_is_recorded_and_tried_again(cells, tmp_path):
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


def test_an_image_that_stops_a_cell_is_named(cells, tmp_path, monkeypatch):
    for split in ("train", "val"):
        write_tree(tmp_path / "data" / split, images=2, suffix=".JPEG")
    (tmp_path / "data" / "train" / "bee" / "1.JPEG").write_bytes(b"no image")

    def student(experiment, *others):
        list(experiment.data.training_batches(2, epochs=1))

    monkeypatch.setattr(grid, "train_student", student)
    options = compare.parse(["--data", f"imagenet:{tmp_path / 'data'}", "--methods", "kd"])
    out = tmp_path / "grid"
    grid.run(experiment_of(options, settings_of(options)), out)
    error = out / "kd" / "seed0" / "error.txt"
    assert "bee/1.JPEG" in error.read_text().splitlines()[0]
    error.unlink()
    # In a process of its own, too.
    assert not grid.train_cell(out, "kd", 0)
    assert "bee/1.JPEG" in error.read_text().splitlines()[0]


@pytest.mark.parametrize("command", ["compare", "ablations alphas", "ablations probe"])
def test_a_command_with_a_failed_training_ends_with_status_1(command, cells, tmp_path, monkeypatch):
    _, failing = cells
    failing.add(("letkd2", 0))
    monkeypatch.setattr("letkd_keras.recipes.studies.probe.write", lambda *args: None)
    monkeypatch.setattr("letkd_keras.recipes.recipe_command.print_report", lambda path: None)
    name, *words = command.split()
    monkeypatch.chdir(tmp_path)
    words = [*words, *SMALL.split(), "--methods", "letkd2", "--out", "grid"]
    monkeypatch.setattr(sys, "argv", [name, *words])
    statuses = []
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            runpy.run_path(Path(compare.__file__).with_name(f"{name}.py"), run_name="__main__")
        statuses.append(end.value.code)
        failing.clear()
    assert statuses == [1, 0]


@pytest.mark.parametrize(("method", "trials", "left"), [("student", 2, 2), ("kd", 1, 1)])
def test_a_failure_that_this_start_does_not_try_again_is_in_the_table_only(
    method, trials, left, cells, tmp_path
):
    _, failing = cells
    failing.update([("kd", 0), ("kd", 1)])
    out = tmp_path / "grid"
    assert exit_status(grid.run(_experiment(["kd"], "--trials 2"), out)) == 1
    failing.clear()
    rows = grid.run(_experiment([method], f"--trials {trials}"), out)
    assert exit_status(rows) == 0
    assert f"| KD | {2 - left} ({left} failed) |" in (out / "table.md").read_text()
    with (out / "table.csv").open(newline="") as file:
        assert [row["failed"] for row in csv.DictReader(file)][-1] == str(left)


def test_the_table_in_all_its_forms(cells, tmp_path):
    out = tmp_path / "grid"
    grid.run(_experiment(["letkd2+kd", "student"], "--trials 3"), out)
    text = (out / "table.md").read_text()
    # Of 60, 70, 80 the standard deviation is that of a sample.
    row = "| letKD-2 + KD | 3 | 70.00 ± 10.00 | 90.00 ± 0.00 | 1,234 | 1,000 | 3 s |"
    assert row in text
    assert "40 training and 599 test images (stratified, 1198 training and 599 test" in text
    assert "The best epoch is selected on the test images, as in the papers" in text
    with (out / "table.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["method"], second["method"]) == ("student", "letkd2+kd")
    assert float(second["accuracy_last_std"]) == 10 and second["published"] == ""


def test_the_picture_of_a_table(tmp_path):
    row = {"method": "kd", "title": "KD", "trials": 2, "published": Accuracy(70.66, 0.2)}
    row |= {"accuracy_last_mean": 70, "accuracy_last_std": 1}
    row |= {"accuracy_best_mean": 71, "accuracy_best_std": None}
    teacher, file = {"accuracy_last": 99.0}, tmp_path / "table.png"
    method_table._plot(_experiment(["kd"]), teacher, [row, {**row, "published": None}], file)
    assert Image.open(file).width > 500


def test_with_a_validation_set_the_table_says_which_images_selected_the_epoch(cells, tmp_path):
    experiment = _experiment(["kd"], "--validation-fraction 0.5")
    assert experiment.data.train_examples == 20
    grid.run(experiment, tmp_path / "grid")
    text = (tmp_path / "grid" / "table.md").read_text()
    assert "20 training images held out for validation" in text
    assert "| KD | 1 | 50.00 | 55.00 |" in text
    assert "The test images are evaluated once, after that." in text
    assert "as in the papers" not in text


def test_published_numbers_with_spreads_and_sources(cells, cifar100_noise, tmp_path):
    options = "--data cifar100 --pair resnet56-resnet20 --templates 64 --train-examples 200"
    grid.run(_experiment(["letkd_i1p0", "letkd1"], options), tmp_path / "whole")
    text = (tmp_path / "whole" / "table.md").read_text()
    assert "top-1 (published: 72.34)" in text
    assert re.search(r"penultimate alpha 0 \|.*\| 72.78 \|", text)
    assert re.search(r"letKD-1 \|.*\| 72.44 ± 0.24 \|", text)
    assert "- letKD-2, penultimate alpha 0: letKD, supplement, Table 5" in text
    with (tmp_path / "whole" / "table.csv").open(newline="") as file:
        published = [(row["published"], row["published_spread"]) for row in csv.DictReader(file)]
    assert published == [("72.44", "0.24"), ("72.78", "")]
    options = options.replace("--train-examples 200", "--classes 3 --train-examples 6")
    grid.run(_experiment(["kd"], f"{options} --batch-size 2"), tmp_path / "reduced")
    text = (tmp_path / "reduced" / "table.md").read_text()
    assert "first 3 classes" in text and "70.66" not in text


def test_what_cannot_run_is_refused_before_the_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match="at most the 2560 feature vectors"):
        grid.run(_experiment(["quest"], "--templates 2561"), tmp_path / "grid")
    assert not (tmp_path / "grid").exists()


def test_a_damaged_result_is_refused(cells, tmp_path):
    grid.run(_experiment(["kd"]), tmp_path / "grid")
    file = tmp_path / "grid" / "kd" / "seed0" / "result.json"
    file.write_text(file.read_text().replace("60.0", "66.0"))
    with pytest.raises(ValueError, match=r"result.json is damaged.*Delete the folder"):
        grid.run(_experiment(["kd"]), tmp_path / "grid")


# === Cells in processes of their own ===


class Process:
    """A process that ends at once; `METHOD` "dies" is killed by the system."""

    started: ClassVar[list] = []

    def __init__(self, command, env, stdout, stderr):
        *_, folder, self.method, seed = command
        self.started.append((self.method, int(seed), env))
        self.training = training_folder.student_folder(folder, self.method, int(seed))

    def wait(self):
        if self.method == "sp":
            return -9
        if self.method == "kd":
            (self.training / "error.txt").write_text("ValueError: no\n")
            return 1
        numbers = {"parameters": 9, "parameters_plain": 7, "seconds": 3.0, "epochs": 240}
        finish(self.training, {"accuracy_last": 60.0, "accuracy_best": 90.0, **numbers})
        return 0

    def terminate(self):
        pass


def test_cells_run_in_processes(cells, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(Process, "started", [])
    out = tmp_path / "grid"
    with caplog.at_level("INFO", logger="letkd_keras"):
        rows = grid.run(_experiment(["student", "kd", "sp"], "--trials 2"), out, jobs=2)
    assert sorted(cell[:2] for cell in Process.started) == [
        *(("kd", 0), ("kd", 1), ("sp", 0), ("sp", 1), ("student", 0), ("student", 1)),
    ]
    assert cells[0] == []  # none was trained here
    outcome = {row["method"]: (row["trials"], row["failed"]) for row in rows}
    assert outcome == {"student": (2, 0), "kd": (0, 2), "sp": (0, 2)}
    text = (out / "table.md").read_text()
    assert "- SP, seed 1: `the process ended with killed by signal 9; see output.txt`" in text
    assert "- KD, seed 0: `ValueError: no`" in text
    assert "training 6 of 6" in caplog.text
    for _, _, env in Process.started:
        assert int(env["TF_NUM_INTRAOP_THREADS"]) >= 1


def test_processes_end_with_a_grid_that_is_interrupted(tmp_path, monkeypatch):
    started, terminated = threading.Event(), threading.Event()

    class Waiting(Process):
        def wait(self):
            if self.method == "sp":
                started.set()
                terminated.wait(20)
            else:
                started.wait(20)
            return 0

        def terminate(self):
            terminated.set()

    monkeypatch.setattr(subprocess, "Popen", Waiting)
    monkeypatch.setattr(Process, "started", [])
    done = grid._in_processes([("kd", 0), ("sp", 0)], tmp_path, jobs=2)
    assert next(done) == ("kd", 0)
    done.close()
    assert terminated.is_set()
    assert grid._outcome(training_folder.student_folder(tmp_path, "sp", 0)) == "interrupted"


def test_on_jax_the_processes_need_no_tensorflow(monkeypatch):
    gpu = SimpleNamespace(platform="gpu")
    monkeypatch.setattr(grid.gpus.keras.backend, "backend", lambda: "jax")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(local_devices=lambda: [gpu, gpu]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environment = grid._environment(slot=3, jobs=4)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"  # of two, in turn
    assert environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


def test_a_cell_that_another_process_trains_is_left_to_it(cells, tmp_path):
    out = tmp_path / "grid"
    grid.run(_experiment(["student"]), out)
    training = training_folder.student_folder(out, "kd", 0)
    with grid._locked(training):
        rows = grid.run(_experiment(["kd"]), out)
    assert rows[1]["failed"] == 1
    assert "is being trained by another process" in (training / "error.txt").read_text()
    assert ("kd", 0) not in cells[0]
    with grid._locked(training):  # whatever becomes of this start, it has not failed yet
        assert not (training / "error.txt").exists()


def test_a_cell_is_not_trained_on_other_images(cells, tmp_path):
    out = tmp_path / "grid"
    grid.run(_experiment(["student"]), out)
    file = out / "config.json"
    config = json.loads(file.read_text())
    config["data"]["digest"] = "0"
    file.write_text(json.dumps(config))
    assert not grid.train_cell(out, "kd", 0)
    assert "images of digits have changed" in (out / "kd" / "seed0" / "error.txt").read_text()


def test_jobs_are_refused_where_workers_share_the_trainings(cells, tmp_path):
    with sharing.by(object()), pytest.raises(ValueError, match="`jobs` must be 1"):
        grid.run(None, tmp_path, jobs=2)


def test_a_lost_worker_ends_the_grid(cells, tmp_path, monkeypatch):
    def lost(*_):
        raise ConnectionError("gone")

    monkeypatch.setattr(grid, "train_student", lost)
    with pytest.raises(ConnectionError, match="gone"):
        grid.run(_experiment(["kd"]), tmp_path / "grid")
    assert not list((tmp_path / "grid").rglob("error.txt"))
