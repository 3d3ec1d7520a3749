import json
from dataclasses import replace

import keras
import pytest

from letkd_keras.data import DataSpec
from letkd_keras.functional import fingerprint
from letkd_keras.recipes import digits
from letkd_keras.recipes.experiments.experiment import OPEN_KEYS, Experiment, prepare
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.trainings import workers
from letkd_keras.run_folder import differences

SMALL = "--train-examples 40 --test-examples 20 --batch-size 20 --templates 16"


def _experiment(text=""):
    return experiment_of(digits.parse(f"{SMALL} {text}".split()), digits.SETTINGS)


@pytest.fixture(scope="module")
def prepared():
    return prepare(_experiment("--methods letkd2"))


def _classifier(path, layers):
    """A classifier of digits with these layers before its last one, as a file."""
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for layer in layers:
        x = layer(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    model.save(path)
    return model


def _one_block(path):
    return _classifier(
        path,
        [
            keras.layers.Conv2D(4, 3, strides=4, padding="same", name="maps"),
            keras.layers.GlobalAveragePooling2D(),
        ],
    )


def test_the_config_has_layers_and_data(prepared):
    config = prepared.config()
    assert config == json.loads(json.dumps(config))
    assert config["teacher"]["intermediate_layer"] == "intermediate"
    assert config["student"]["penultimate_layer"] == "penultimate"
    assert config["pool_sizes"] == {"penultimate": 1, "intermediate": 1}
    assert config["data"]["digest"] == prepared.data.digest
    assert config["data"]["mean"] == list(prepared.data.mean)
    assert DataSpec.from_config(config["data"]) == prepared.spec


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
    model = _one_block(first)
    model.save(moved)
    _one_block(second)
    configs = [
        prepare(_experiment(f"--methods kd --teacher {file}")).config()
        for file in (first, moved, second)
    ]
    assert configs[0]["teacher"]["fingerprint"] == fingerprint(model)
    assert differences(configs[0], configs[1], ignore=OPEN_KEYS) == []
    (line,) = differences(configs[0], configs[2], ignore=OPEN_KEYS)
    assert line.startswith("teacher.fingerprint: ")


def test_letkd1_is_used_where_a_network_has_no_intermediate_layer(tmp_path, caplog):
    _one_block(tmp_path / "t.keras")
    experiment = replace(
        _experiment(f"--methods student letkd2 letkd1+kd letkd2+kd --teacher {tmp_path}/t.keras"),
        export_method="letkd2",
    )
    with caplog.at_level("WARNING", logger="letkd_keras"):
        prepared = prepare(experiment)
    assert prepared.methods == ("student", "letkd1", "letkd1+kd")
    assert prepared.export_method == "letkd1"
    assert prepared.levels == ("penultimate",)
    (message,) = [record.message for record in caplog.records if "letkd1 is used" in record.message]
    assert message.startswith("t has no intermediate layer that could be suggested")
    with pytest.raises(ValueError, match="letkd_i1 needs an intermediate layer"):
        prepare(replace(experiment, methods=("letkd_i1",)))


def test_the_layers_chosen_are_logged(caplog):
    with caplog.at_level("INFO", logger="letkd_keras"):
        prepare(_experiment("--methods letkd2"))
    assert "layers of the teacher resnet20: penultimate 8x8x64" in caplog.text
    assert "layers of the student resnet8: penultimate 8x8x64" in caplog.text


def test_a_teacher_without_feature_maps_can_distil_by_kd_only(tmp_path):
    _classifier(tmp_path / "t.keras", [keras.layers.Flatten()])
    prepare(_experiment(f"--methods kd --teacher {tmp_path}/t.keras"))
    with pytest.raises(ValueError, match="feature map"):
        prepare(_experiment(f"--methods letkd1 --teacher {tmp_path}/t.keras"))


def test_a_method_that_does_not_fit_the_teacher_is_refused(tmp_path):
    maps = [keras.layers.Conv2D(4, 3, strides=2, padding="same") for _ in range(3)]
    _classifier(tmp_path / "t.keras", [*maps, keras.layers.Flatten()])
    prepare(_experiment(f"--methods student fitnet --teacher {tmp_path}/t.keras"))
    with pytest.raises(ValueError, match=r"simkd does not fit.*'flatten(_\d+)?' of Flatten"):
        prepare(_experiment(f"--methods student simkd --teacher {tmp_path}/t.keras"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--batch-size 41", "`batch_size` must be at most the 40 training images"),
        ("--templates 2561", "`templates` must be at most the 2560 feature vectors"),
        ("--penultimate-layer penultimat", "`penultimate_layer` must name a layer"),
    ],
)
def test_what_does_not_fit_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        prepare(_experiment(f"--methods letkd2 {text}"))


class _Workers:
    devices = 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`batch_size` must be a multiple of the 8 devices of all workers.*batch_size=20"),
        ("--batch-size 16 --clip-norm 1", "`clip_norm` cannot be used by several workers"),
        ("--batch-size 16 --methods crd", "crd must be trained by one worker"),
    ],
)
def test_what_several_workers_cannot_train_is_refused(text, message):
    with workers.sharing(_Workers()), pytest.raises(ValueError, match=message):
        prepare(_experiment(text))
    assert workers.current() is None


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
    assert "student_examples" not in _experiment().config()
    assert _experiment().student_data.train_examples == 40


@pytest.mark.parametrize("number", [9, 41])
def test_too_few_and_too_many_images_of_students_are_refused(number):
    with pytest.raises(ValueError, match="`student_examples`"):
        prepare(_experiment(f"--student-examples {number}"))
