import json

import numpy as np
import pytest
from digit_classifiers import one_block
from PIL import Image

from letkd_keras.commands.run_folder import differences
from letkd_keras.data import DataSpec
from letkd_keras.functional import fingerprint
from letkd_keras.levels import LEVELS
from letkd_keras.recipes import digits
from letkd_keras.recipes import folder as folder_recipe
from letkd_keras.recipes.experiments.experiment import OPEN_KEYS, Experiment
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.preparation import prepare

SMALL = "--train-examples 40 --test-examples 20 --batch-size 20 --templates 16"


def _experiment(text=""):
    return experiment_of(digits.parse(f"{SMALL} {text}".split()), digits.SETTINGS)


@pytest.fixture(scope="module")
def prepared():
    return prepare(_experiment("--methods letkd2"))


def test_the_config_has_layers_and_data(prepared):
    config = prepared.config()
    assert config == json.loads(json.dumps(config))
    assert config["teacher"]["intermediate_layer"] == "intermediate"
    assert config["student"]["penultimate_layer"] == "penultimate"
    assert config["pool_sizes"] == {"penultimate": 1, "intermediate": 1}
    assert config["data"]["digest"] == prepared.data.digest
    assert config["data"]["mean"] == list(prepared.data.mean)
    assert DataSpec.from_config(config["data"]) == prepared.spec


def test_templates_of_both_levels():
    experiment = _experiment("--templates 16 --subclasses 3")
    assert [experiment.templates_of(level) for level in LEVELS] == [16, 30]


def test_an_experiment_is_rebuilt_from_its_config(prepared):
    rebuilt = Experiment.from_config(json.loads(json.dumps(prepared.config())))
    assert rebuilt.config() == prepared.config()
    assert rebuilt.data.digest == prepared.data.digest
    changed = Experiment.from_config(prepared.config(), methods=("kd",))
    assert changed.methods == ("kd",)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("--pixels 0..255", "data.pixels"),
        ("--train-examples 30", "data.digest"),
        ("--validation-fraction 0.3", "data.split"),
        ("--templates 32", "templates"),
        ("--penultimate-alpha 0.5", "penultimate_alpha"),
        ("--intermediate-weight 2", "intermediate_weight"),
        ("--temperature 2", "temperature"),
        ("--iterations 3", "iterations"),
        ("--memory 1M", "memory"),
        ("--learning-rate 0.1", "student_schedule.learning_rate"),
        ("--teacher-epochs 1", "teacher_schedule.epochs"),
        ("--seed 1", "seed"),
        ("--teacher resnet14", "teacher.title"),
    ],
)
def test_what_results_depend_on_is_in_the_config(text, key, prepared):
    other = prepare(_experiment(f"--methods letkd2 {text}"))
    changed = differences(prepared.config(), other.config(), ignore=OPEN_KEYS)
    assert any(line.startswith(f"{key}: ") for line in changed), changed


def test_methods_trials_formats_and_block_size_may_differ(prepared):
    other = prepare(_experiment("--methods student --trials 4 --formats tflite --block-size 4"))
    assert differences(prepared.config(), other.config(), ignore=OPEN_KEYS) == []


def test_a_replaced_teacher_is_seen_and_a_moved_one_accepted(tmp_path):
    first, moved, second = (tmp_path / name for name in ("a/t.keras", "b/t.keras", "c/t.keras"))
    for file in (first, moved, second):
        file.parent.mkdir()
    model = one_block(first)
    model.save(moved)
    one_block(second)
    configs = [
        prepare(_experiment(f"--methods kd --teacher {file}")).config()
        for file in (first, moved, second)
    ]
    assert configs[0]["teacher"]["fingerprint"] == fingerprint(model)
    assert differences(configs[0], configs[1], ignore=OPEN_KEYS) == []
    (line,) = differences(configs[0], configs[2], ignore=OPEN_KEYS)
    assert line.startswith("teacher.fingerprint: ")


def test_renamed_files_and_folders_of_the_same_contents_are_accepted(tmp_path):
    for number in range(40):
        folder = tmp_path / "photos" / f"c{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8, 3), 6 * number, "uint8")
        Image.fromarray(pixels).save(folder / f"{number}.png")
    one_block(tmp_path / "t.keras")

    def prepared(data, teacher):
        text = f"--data {tmp_path}/{data} --teacher {tmp_path}/{teacher} --student resnet8"
        options = folder_recipe.parse(f"{text} --image-size 32 --methods kd --batch-size 8".split())
        return prepare(experiment_of(options, folder_recipe.SETTINGS))

    before = prepared("photos", "t.keras").config()
    (tmp_path / "photos").rename(tmp_path / "renamed")
    (tmp_path / "t.keras").rename(tmp_path / "u.keras")
    after = prepared("renamed", "u.keras")
    assert after.pair == "u-resnet8" and after.data.name != before["data"]["name"]
    assert differences(before, after.config(), ignore=after.open_keys) == []
    # A network of the zoo has its title only.
    assert "student.title" not in after.open_keys


def test_students_can_see_few_of_the_images():
    experiment = _experiment("--student-examples 20 --image-size 16")
    few, data = experiment.student_data, experiment.data
    assert few.train_examples == data.train_examples == 40
    assert len({image.tobytes() for image in few.x_train}) == 20
    assert {image.tobytes() for image in few.x_train} < {image.tobytes() for image in data.x_train}
    assert few.x_test is not None and few.test_examples == data.test_examples
    # The crop is the same share of smaller images.
    assert experiment.augmentation["crop_padding"] == 2
    assert experiment.config()["student_examples"] == 20
    assert _experiment().student_data.train_examples == 40
