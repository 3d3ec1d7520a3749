import json

import pytest
from image_trees import write_tree

from letkd_keras import models
from letkd_keras.recipes import imagenet, run


@pytest.mark.slow
@pytest.mark.parametrize("student", ["resnet18", "mobilenet_v1"])
def test_from_folders_to_an_exported_student(student, tmp_path):
    write_tree(tmp_path / "data" / "train", images=8, suffix=".JPEG", size=(60, 50))
    write_tree(tmp_path / "data" / "val", images=3, suffix=".JPEG", size=(50, 60))
    teacher = {"resnet18": "resnet34", "mobilenet_v1": "resnet50"}[student]
    models.build(f"imagenet_{teacher}", 3, (64, 64, 3)).save(tmp_path / "teacher.keras")
    out = tmp_path / "run"
    report = imagenet.main(
        [
            *("--data", f"imagenet:{tmp_path / 'data'}", "--out", str(out)),
            *("--pair", f"imagenet_{teacher}-imagenet_{student}", "--image-size", "64"),
            *("--teacher", str(tmp_path / "teacher.keras"), "--epochs", "1"),
            *("--templates", "16", "--subclasses", "2", "--batch-size", "8"),
            *("--validation-fraction", "0.3"),
        ]
    )
    assert set(report["exported"]) == {"savedmodel", "tflite"}
    # The paper's numbers are not those of three made-up classes.
    assert report["methods"]["letkd2"]["published"] is None
    measured = report["measures"]["letkd2"][0]
    assert measured["top-5"] == 100
    assert measured["top-1"] == pytest.approx(
        report["methods"]["letkd2"]["accuracy_selected_mean"], abs=1e-3
    )
    assert "selected on the validation images" in report["selection"]
    config = json.loads((out / "config.json").read_text())
    assert config["student_schedule"]["weight_decay"] == 1e-4
    assert config["feature_cache"] == "float32"


def test_folder_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="must have train/ and val/"):
        imagenet.main(["--data", f"imagenet:{tmp_path}"])


def test_image_that_stops_a_run_is_named(tmp_path, monkeypatch):
    for split in ("train", "val"):
        write_tree(tmp_path / "data" / split, images=2, suffix=".JPEG")
    broken = tmp_path / "data" / "train" / "bee" / "1.JPEG"
    broken.write_bytes(b"no image")

    def train_teacher(experiment, folder):
        list(experiment.data.training_batches(2, epochs=1))

    monkeypatch.setattr(run, "prepare", lambda experiment: experiment)
    monkeypatch.setattr(run, "train_teacher", train_teacher)
    with pytest.raises(ValueError, match=r"bee/1\.JPEG"):
        imagenet.main(["--data", f"imagenet:{tmp_path / 'data'}", "--out", str(tmp_path / "run")])
