import csv
import json
import shutil

import numpy as np
import pytest
from image_trees import write_tree
from PIL import Image

from letkd_keras.commands.run_folder import read_config
from letkd_keras.data.npz import save_npz
from letkd_keras.files import write_json
from letkd_keras.functional import load_model
from letkd_keras.recipes import compare, explain
from letkd_keras.recipes.experiments.experiment import OPEN_KEYS, Experiment
from letkd_keras.recipes.studies.explanation import (
    all_crossings,
    crossing,
    trailing_mean,
    window_of,
)
from letkd_keras.recipes.trainings import training_folder


def test_trailing_mean_by_hand():
    np.testing.assert_allclose(trailing_mean([1.0, 3.0, 5.0, 7.0], 2), [1, 2, 4, 6])
    np.testing.assert_allclose(trailing_mean([1.0, 3.0], 5), [1, 2])


@pytest.mark.parametrize(
    ("ahead", "behind", "epoch"),
    [
        ([2, 2, 2], [1, 1, 1], 1),
        ([0, 2, 0, 2, 2], [1, 1, 1, 1, 1], 4),
        ([0, 0, 2], [1, 1, 1], 3),
        ([2, 2, 1], [1, 1, 1], None),
        ([2, 2, 0], [1, 1, 1], None),
        ([0, 2, 2], [1, 1, 1, 9], 2),
    ],
)
def test_the_epoch_from_which_a_curve_stays_ahead(ahead, behind, epoch):
    assert crossing(ahead, behind, 1) == epoch


def test_short_trainings_are_compared_by_their_single_epochs():
    assert [window_of(epochs) for epochs in (1, 6, 39, 40, 100, 240)] == [1, 1, 1, 2, 5, 5]
    lead, end = [20, 30, 35, 60, 80, 90], [10, 20, 30, 40, 80, 95]
    found = all_crossings({"lead": np.array(lead), "end": np.array(end)}, window_of(6))
    assert found == [{"ahead": "end", "behind": "lead", "epoch": 6}]


def test_a_single_epoch_is_no_crossing():
    assert crossing([5.0] * 10, [0, 0, 0, 0, 0, 9.0, 0, 0, 0, 0], 5) == 1


def test_crossings_are_found_in_both_directions():
    curves = {"a": [1] * 6, "b": [0, 0, 2, 2, 2, 2], "c": [0] * 6}
    found = all_crossings({name: np.array(curve, float) for name, curve in curves.items()}, 5)
    assert [(entry["ahead"], entry["behind"]) for entry in found] == [
        ("b", "a"),
        ("a", "c"),
        ("b", "c"),
    ]


@pytest.fixture(scope="module")
def grid_folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("explain") / "grid"
    options = "--epochs 2 --teacher-epochs 1 --train-examples 60 --test-examples 40 --batch-size 20"
    compare.main([*options.split(), "--methods", "kd", "letkd2", "--out", str(out)])
    return out


def test_a_row_for_each_training(grid_folder):
    with (grid_folder / "trainings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"], row["epochs"]) for row in rows] == [
        ("kd", "0", "2"),
        ("letkd2", "0", "2"),
    ]
    for row in rows:
        result = training_folder.finished(grid_folder / row["method"] / "seed0")
        for name in ("parameters", "accuracy_last", "accuracy_best", "best_epoch", "seconds"):
            assert float(row[name]) == pytest.approx(result[name])


def test_a_grid_is_explained(grid_folder, capsys):
    found = explain.main([str(grid_folder)])
    kd, letkd = found["methods"]
    assert (kd["method"], letkd["method"]) == ("kd", "letkd2")
    # Only a student with KD layers has divergences and probes.
    names = ("kl_penultimate", "kl_intermediate", "x", "x_hat")
    assert [kd[name] for name in names] == [None] * 4
    last = training_folder.read_metrics(grid_folder / "letkd2" / "seed0" / "metrics.csv")[-1]
    assert letkd["kl_penultimate"] == last["kl_penultimate"] > 0
    assert 0 < letkd["x"] <= 100
    assert 0 < letkd["x_hat"] <= 100
    assert json.loads((grid_folder / "explain.json").read_text()) == found
    assert Image.open(grid_folder / "explain.png").size[0] > 600
    text = (grid_folder / "explain.md").read_text()
    assert "agreement with the teacher" in text
    assert "Everything is in" in capsys.readouterr().out


def test_agreement_is_the_share_of_images_with_the_teachers_class(grid_folder):
    data = Experiment.from_config(read_config(grid_folder)).data
    x = np.concatenate([np.asarray(images) for images, _ in data.evaluation_batches(7)])
    teacher, student = (
        load_model(grid_folder / path, "model").predict(x, verbose=0).argmax(-1)
        for path in ("teacher/teacher.keras", "kd/seed0/student.keras")
    )
    kd = json.loads((grid_folder / "explain.json").read_text())["methods"][0]
    assert kd["agreement"] == pytest.approx(100 * np.mean(teacher == student))


def test_trials_that_ended_at_different_epochs(grid_folder, tmp_path):
    folder = shutil.copytree(grid_folder, tmp_path / "stopped")
    shutil.copytree(folder / "kd" / "seed0", folder / "kd" / "seed1")
    metrics = folder / "kd" / "seed1" / "metrics.csv"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    found = explain.main([str(folder)])
    assert [(row["method"], row["seed"]) for row in found["methods"]] == [
        ("kd", 0),
        ("kd", 1),
        ("letkd2", 0),
    ]
    assert {crossing["epoch"] for crossing in found["crossings"]} <= {1}


def test_a_copy_of_a_training_is_left_out(grid_folder, tmp_path):
    folder = shutil.copytree(grid_folder, tmp_path / "copied")
    shutil.copytree(folder / "kd" / "seed0", folder / "kd" / "seed0 (copy)")
    shutil.copytree(folder / "kd", folder / "kd (copy)")
    assert len(explain.main([str(folder)])["methods"]) == 2


def test_the_new_place_of_the_images_can_be_named(grid_folder, tmp_path):
    folder = shutil.copytree(grid_folder, tmp_path / "moved")
    config = json.loads((folder / "config.json").read_text())
    save_npz(Experiment.from_config(config).data, tmp_path / "here.npz")
    gone = str(tmp_path / "gone.npz")
    write_json(
        folder / "config.json",
        {**config, "data": {"source": gone, "digest": config["data"]["digest"]}},
    )
    with pytest.raises(
        FileNotFoundError, match=r"no longer in .*gone\.npz. Name their new .*`data`"
    ):
        explain.main([str(folder)])
    found = explain.main([str(folder), "--data", str(tmp_path / "here.npz")])
    assert found == json.loads((grid_folder / "explain.json").read_text())
    with pytest.raises(FileNotFoundError, match=r"`data` must be an existing file.*nor_here"):
        explain.main([str(folder), "--data", str(tmp_path / "nor_here.npz")])


def test_the_new_place_of_everything_that_a_run_may_find_elsewhere_can_be_named(tmp_path):
    # What `OPEN_KEYS` says of the data, but for its name.
    places = [key.removeprefix("data.") for key in OPEN_KEYS if key.startswith("data.")]
    places = [name for name in places if name not in ("name", "source")]
    tree, folder = (str(write_tree(tmp_path / name)) for name in ("images", "now"))
    (tmp_path / "labels.csv").write_text("file,label\n")
    for name in places:
        now = str(tmp_path / "labels.csv") if name == "labels" else folder
        source = "tfds:flowers" if name == "data_dir" else tree
        config = {"source": source, name: str(tmp_path / "before")}
        option = f"--{name.replace('_', '-')}"
        options = explain.parse(["run", option, now])
        explain._move_data(config, options)
        assert config == {"source": source, name: now}


def test_a_folder_without_its_teacher_is_refused(grid_folder, tmp_path):
    folder = shutil.copytree(grid_folder, tmp_path / "alone")
    shutil.rmtree(folder / "teacher")
    with pytest.raises(ValueError, match=r"`folder` must have a finished teacher\. Received: none"):
        explain.main([str(folder)])
    assert not (folder / "teacher").exists()


def test_a_folder_that_is_no_grid(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"`folder` .*config\.json"):
        explain.main([str(tmp_path)])


def test_changed_images_are_refused(grid_folder, tmp_path):
    config = json.loads((grid_folder / "config.json").read_text())
    config["data"]["digest"] = "0" * 64
    folder = tmp_path / "changed"
    folder.mkdir()
    write_json(folder / "config.json", config)
    with pytest.raises(ValueError, match="have changed since"):
        explain.main([str(folder)])
