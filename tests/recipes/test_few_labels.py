"""Training images of which only some have a label."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_image_data import image_data

from letkd_keras.recipes import digits
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.steps.prototypes import with_teachers_classes
from letkd_keras.recipes.workers import shared_training

SMALL = [
    *("--train-examples", "80", "--test-examples", "20", "--labelled-fraction", "0.25"),
    *("--teacher", "resnet8", "--student", "resnet8", "--epochs", "1", "--batch-size", "20"),
    *("--templates", "8", "--subclasses", "2", "--formats", "tflite"),
]


def test_the_teachers_class_replaces_missing_labels():
    data = image_data().keep_labels(0.25)
    # The "teacher" says class 3 to all images.
    teacher = SimpleNamespace(predict_on_batch=lambda images: np.eye(5)[[3] * len(images)])
    labels = with_teachers_classes(data, teacher).y_train
    known = data.y_train >= 0
    np.testing.assert_array_equal(labels[known], data.y_train[known])
    assert set(labels[~known]) == {3}
    everything = image_data()
    assert with_teachers_classes(everything, None) is everything


@pytest.mark.slow
def test_teacher_and_student_alone_see_labelled_images_only(tmp_path, monkeypatch):
    seen = {}

    def train(model, data, schedule, folder, **kwargs):
        seen[folder.parent.name if folder.name == "seed0" else folder.name] = (
            data.train_examples,
            data.unlabelled_examples,
        )
        return shared_training.train(model, data, schedule, folder, **kwargs)

    for step in ("teacher", "student"):
        monkeypatch.setattr(f"letkd_keras.recipes.steps.{step}.train", train)
    run = tmp_path / "run"
    digits.main([*SMALL, "--methods", "student", "letkd2+dkd", "--out", str(run)])
    # The student alone takes as many steps as the others.
    assert seen == {"teacher": (20, 0), "student": (80, 0), "letkd2+dkd": (80, 60)}
    config = json.loads((run / "config.json").read_text())["data"]
    assert config["labelled_fraction"] == 0.25
    assert "20 training images have labels, 60 have none" in config["split"]
    log = (run / "log.txt").read_text()
    assert "the teacher classifies 60 images without a label" in log
    # Logged before there was a run folder.
    assert "layers of the teacher resnet8: penultimate" in log
    assert "size of the student with KD layers" in log
    metrics = (run / "letkd2+dkd" / "seed0" / "metrics.csv").read_text().splitlines()[0]
    assert {"accuracy", "val_accuracy", "kl_intermediate", "task_loss"} <= set(metrics.split(","))


def _prepared(*options):
    return prepare(experiment_of(digits.parse([*SMALL, *options]), digits.SETTINGS))


def test_a_folder_of_further_images(tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(folder / f"{number}.jpg")
    experiment = _prepared("--methods", "kd", "--unlabelled", str(folder))
    assert (experiment.data.train_examples, experiment.data.unlabelled_examples) == (85, 65)


def test_methods_whose_classifier_sees_labelled_images_only_are_named(caplog):
    names = ["student", "kd", "simkd", "letkd2", "letkd2+dkd", "fitnet", "fitnet+kd"]
    _prepared("--methods", *names)
    messages = [record.getMessage() for record in caplog.records]
    warned = [message for message in messages if "no loss on the logits" in message]
    assert [message.split()[0] for message in warned] == ["letkd2", "fitnet"]
    assert "only the 20 images with a label train the student's classifier" in warned[0]
    assert "letkd2+dkd has one" in warned[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "crd"], "crd compares images of different classes: all .* 60 images"),
        (["--methods", "kd", "--class-weights", "balanced"], "`class_weights` need labels of all"),
        (["--methods", "kd", "--augment", "mixup"], "`augment` must not mix labels where"),
        (["--methods", "kd", "--batch-size", "21"], "at most the 20 training images with a label"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _prepared(*options)
