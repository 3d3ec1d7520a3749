"""Teachers that are trained in phases: a new head on frozen features, then fine-tuned."""

import json

import keras
import numpy as np
import pytest
from digit_classifiers import classifier

from letkd_keras.recipes import digits
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.steps import teacher as step
from letkd_keras.recipes.trainings import training_folder

SMALL = [
    *("--train-examples", "40", "--test-examples", "20", "--batch-size", "20"),
    *("--methods", "kd", "--epochs", "1", "--student", "resnet8"),
]


@pytest.fixture
def backbone(tmp_path):
    """A network of seven other classes, as a file."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, use_bias=False, name="first")(inputs)
    x = keras.layers.BatchNormalization(name="normalization")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    file = tmp_path / "backbone.keras"
    keras.Model(inputs, keras.layers.Dense(7, name="old")(x)).save(file)
    return str(file)


def _prepared(*options):
    return prepare(experiment_of(digits.parse([*SMALL, *options]), digits.SETTINGS))


def _weights(file, *layers):
    model = keras.models.load_model(file)
    return [weight for name in layers for weight in model.get_layer(name).get_weights()]


def _teacher(experiment, folder):
    folder.mkdir(exist_ok=True)
    return step.train_teacher(experiment, folder)


def test_a_head_is_trained_on_frozen_features(backbone, tmp_path, caplog):
    experiment = _prepared("--teacher", backbone, "--head-epochs", "2")
    assert list(experiment.teacher_phases) == ["head_schedule"]
    assert experiment.teacher.trained == "backbone"
    with caplog.at_level("INFO", logger="letkd_keras"):
        teacher, result = _teacher(experiment, tmp_path / "run")
    assert "training a head of the teacher backbone.keras on its frozen features" in caplog.text
    assert "hardly better than chance" not in caplog.text
    assert (result["epochs"], teacher.output_shape) == (2, (None, 10))
    layers = ("first", "normalization")
    for weights in zip(
        _weights(tmp_path / "run" / "teacher" / "teacher.keras", *layers),
        _weights(backbone, *layers),
        strict=True,
    ):
        np.testing.assert_array_equal(*weights)
    # Nothing stays frozen.
    assert all(layer.trainable for layer in teacher.layers)


def test_fine_tuning_follows_and_continues_after_an_interruption(backbone, tmp_path, monkeypatch):
    options = ["--teacher", backbone, "--head-epochs", "1", "--fine-tune-epochs", "2"]
    experiment = _prepared(*options)
    assert list(experiment.teacher_phases) == ["head_schedule", "fine_tune_schedule"]
    rate = digits.SETTINGS.learning_rate
    assert experiment.fine_tune_schedule.learning_rate == pytest.approx(rate / 10)
    trained, real = [], step.train

    def train(model, data, schedule, folder, **kwargs):
        trained.append(schedule)
        if schedule == experiment.fine_tune_schedule and trained.count(schedule) == 1:
            raise KeyboardInterrupt
        return real(model, data, schedule, folder, **kwargs)

    monkeypatch.setattr(step, "train", train)
    with pytest.raises(KeyboardInterrupt):
        _teacher(experiment, tmp_path / "run")
    _, result = _teacher(experiment, tmp_path / "run")
    # The head is trained once.
    assert trained == [experiment.head_schedule, *[experiment.fine_tune_schedule] * 2]
    folder = tmp_path / "run" / "teacher"
    assert training_folder.finished(folder) == result and result["epochs"] == 2
    head, tuned = (
        _weights(file / "teacher.keras", "first")[0] for file in (folder / "head", folder)
    )
    np.testing.assert_array_equal(head, _weights(backbone, "first")[0])
    assert np.abs(head - tuned).max() > 0


def test_a_trained_teacher_can_be_fine_tuned(tmp_path):
    classifier(tmp_path / "t.keras", [keras.layers.GlobalAveragePooling2D()])
    options = ["--teacher", str(tmp_path / "t.keras")]
    assert not _prepared(*options).teacher_phases
    tuned = _prepared(*options, "--fine-tune-epochs", "3", "--teacher-learning-rate", "0.2")
    assert list(tuned.teacher_phases) == ["fine_tune_schedule"]
    schedule = tuned.teacher_phases["fine_tune_schedule"]
    assert (schedule.epochs, schedule.learning_rate) == (3, 0.2)


def test_options_without_effect_on_the_teacher_are_warned_about(tmp_path, caplog):
    classifier(tmp_path / "t.keras", [keras.layers.GlobalAveragePooling2D()])
    given = ["--teacher", str(tmp_path / "t.keras")]
    of_training = ["--teacher-epochs", "2", "--teacher-learning-rate", "0.1"]
    of_trained = ["--head-epochs", "3", "--fine-tune-epochs", "1"]

    def warnings(*options):
        caplog.clear()
        _prepared(*options)
        texts = [record.message for record in caplog.records if "no effect" in record.message]
        return [text.replace(" has no effect: the teacher", ":") for text in texts]

    assert warnings("--teacher", "resnet14", *of_training) == warnings(*given) == []
    assert warnings("--teacher", "resnet14", *of_trained) == [
        "--head-epochs: resnet14 has no trained weights.",
        "--fine-tune-epochs: resnet14 has no trained weights.",
    ]
    assert warnings(*given, *of_training) == [
        "--teacher-epochs: t.keras is trained already.",
        "--teacher-learning-rate: t.keras is trained already.",
    ]
    assert warnings(*given, *of_training, *of_trained) == [
        "--teacher-epochs: t.keras is trained already.",
        "--head-epochs: t.keras needs no new head.",
    ]


def test_schedules_of_the_teacher_are_in_the_config(backbone):
    config = _prepared("--teacher", backbone, "--head-epochs", "3").config()
    assert config["teacher_schedule"] is None and config["fine_tune_schedule"] is None
    assert config["head_schedule"]["epochs"] == 3
    assert config["head_schedule"]["optimizer"] == "adamw"
    rebuilt = type(_prepared()).from_config(json.loads(json.dumps(config)))
    assert rebuilt.config() == config
    fresh = _prepared().config()
    assert fresh["teacher_schedule"]["epochs"] and fresh["head_schedule"] is None


def test_only_a_foreign_teacher_at_chance_is_warned_about(tmp_path, caplog):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    file = tmp_path / "t.keras"
    keras.Model(inputs, keras.layers.Dense(10, kernel_initializer="zeros")(x)).save(file)
    experiment = _prepared("--teacher", str(file))
    _, result = _teacher(experiment, tmp_path / "run")
    assert "hardly better than chance" in caplog.text
    caplog.clear()
    # The same file in a folder of a recipe, which says that the teacher was no better.
    training_folder.write_checked_json(tmp_path / "result.json", result)
    _teacher(experiment, tmp_path / "run")
    assert "hardly better than chance" not in caplog.text
    training_folder.write_checked_json(tmp_path / "result.json", {**result, "accuracy_last": 80.0})
    _teacher(experiment, tmp_path / "run")
    assert "hardly better than chance" in caplog.text


@pytest.mark.parametrize(
    ("classes", "accuracy", "near_chance"),
    [(2, 54, True), (2, 56, False), (10, 18, True), (10, 20, False)],
)
def test_what_is_hardly_better_than_chance(
    classes, accuracy, near_chance, tmp_path, caplog, monkeypatch
):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    file = tmp_path / "t.keras"
    keras.Model(inputs, keras.layers.Dense(classes)(x)).save(file)
    experiment = _prepared("--teacher", str(file), "--classes", str(classes))
    logs = {"accuracy": accuracy / 100}
    monkeypatch.setattr(keras.Model, "evaluate", lambda *arguments, **options: logs)
    _teacher(experiment, tmp_path / "run")
    assert ("hardly better than chance" in caplog.text) == near_chance
