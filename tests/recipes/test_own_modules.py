"""A module of one's own, with a method, a loss on logits and a network, in every command."""

import importlib
import logging
import sys

import keras
import numpy as np
import pytest
from tables_restored import tables_restored

from letkd_keras.commands.run_folder import read_config
from letkd_keras.export import __main__ as export_command
from letkd_keras.export import sweep, verify
from letkd_keras.functional import load_model
from letkd_keras.prototypes import __main__ as prototypes_command
from letkd_keras.recipes import __main__ as list_command
from letkd_keras.recipes import compare, explain, listing
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.experiments.experiment import Experiment
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.recipe_of_data import settings_of

MODULE = """
import keras

import letkd_keras as letkd
from letkd_keras.losses import LOGIT_LOSSES, KDLoss, LogitLossRow
from letkd_keras.recipes import METHODS, Method


def little(num_classes, input_shape, name):
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(8, 3, strides=4)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(num_classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name=name)


letkd.models.add_network("little", little)
LOGIT_LOSSES["cooler"] = LogitLossRow(
    "cooler", "KD, T = 2", "", KDLoss, {"temperature": 2.0}, weight=0.5, task_weight=0.25
)
METHODS["own_at"] = Method("Own AT", letkd.distillers.AT)
"""
OPTIONS = [
    *("--data", "digits", "--train-examples", "40", "--test-examples", "20"),
    *("--batch-size", "20", "--teacher-epochs", "1", "--epochs", "1", "--templates", "8"),
    *("--teacher", "little", "--student", "little", "--import", "own_rows"),
]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The file, in the current folder as a user has it; the tables are as before afterwards."""
    (tmp_path / "own_rows.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with tables_restored():
        yield
    sys.modules.pop("own_rows", None)


def _experiment(*arguments):
    options = compare.parse([*OPTIONS, *arguments])
    return experiment_of(options, settings_of(options))


def test_a_loss_is_a_method_and_can_be_added(module):
    compare.parse(OPTIONS)
    method, _ = methods.parse("cooler")
    assert (method.title, method.task_weight, method.logit_losses) == (
        "KD, T = 2",
        0.25,
        ("cooler",),
    )
    assert methods.title("letkd1+cooler") == "letKD-1 + KD, T = 2"
    assert methods.names()[-1] == "cooler"
    assert methods.position("own_at") < methods.position("cooler")


def test_a_folder_from_before_the_option_can_be_read(module):
    config = _experiment("--methods", "student").config()
    assert Experiment.from_config(config).imports == ("own_rows",)
    del config["imports"]
    assert Experiment.from_config(config).imports == ()


def test_each_trial_of_a_network_starts_from_other_weights_in_layers_of_the_same_names(module):
    experiment = prepare(_experiment("--methods", "student"))
    assert experiment.student.trained == "nothing"
    students = []
    for seed in (0, 1, 0):
        keras.utils.set_random_seed(seed)
        students.append(experiment.student.build(experiment.data, "student"))
    names = [[layer.name for layer in student.layers[1:]] for student in students]
    assert names[0] == names[1] == names[2]
    first, second, again = (student.get_weights()[0] for student in students)
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_array_equal(first, again)


def test_processes_of_a_grid_know_the_rows(module, tmp_path, caplog):
    out = tmp_path / "grid"
    arguments = [*OPTIONS, "--methods", "own_at", "cooler", "--jobs", "2", "--out", str(out)]
    assert [(row["title"], row["trials"], row["failed"]) for row in compare.main(arguments)] == [
        ("Own AT", 1, 0),
        ("KD, T = 2", 1, 0),
    ]
    assert read_config(out)["imports"] == ["own_rows"]
    assert load_model(out / "cooler" / "seed0" / "student.keras", "student").name == "little"
    found = explain.main([str(out), "--import", "own_rows"])
    assert [row["method"] for row in found["methods"]] == ["own_at", "cooler"]
    del methods.METHODS["own_at"]
    with caplog.at_level(logging.WARNING):
        found = explain.main([str(out)])
    assert [row["method"] for row in found["methods"]] == ["cooler"]
    assert "unknown methods, which are left out: own_at. If a module" in caplog.text


def test_the_list_has_the_rows_of_the_module(module, monkeypatch):
    assert list_command.parse(["--list", "--import", "own_rows"]).list
    monkeypatch.setattr(listing, "SETTINGS", ())  # pairs have no networks of a module
    methods_, losses, networks = ({row[0]: row for row in table.rows} for table in listing.tables())
    assert methods_["own_at"] == ("own_at", "Own AT", "-", "none", "1")
    assert methods_["cooler"] == ("cooler", "KD, T = 2", "-", "none", "0.25")
    assert losses["cooler"][1:4] == ("", "temperature 2, standardize_logits False", "0.5")
    # It has no layers that are named as those of the zoo, and a softmax, which is removed.
    assert networks["little"] == ("little", "cifar100", "1,140", "0.0 M", "-", "-")


LAYER = """
import keras


@keras.saving.register_keras_serializable("own_layers")
class Half(keras.layers.Layer):
    def call(self, inputs):
        return inputs / 2
"""


@pytest.fixture
def file_with_own_layer(tmp_path, monkeypatch):
    """A `.keras` file, and beside it the module of its layer, which is not imported."""
    (tmp_path / "own_layers.py").write_text(LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    half = importlib.import_module("own_layers").Half
    inputs = keras.Input((8, 8, 3))
    x = half()(keras.layers.Conv2D(4, 3, padding="same")(inputs))
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(tmp_path / "own.keras")
    before = dict(keras.saving.get_custom_objects())
    del keras.saving.get_custom_objects()["own_layers>Half"], sys.modules["own_layers"]
    yield tmp_path / "own.keras"
    sys.modules.pop("own_layers", None)
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(
        {name: value for name, value in before.items() if name != "own_layers>Half"}
    )


def test_commands_read_a_file_with_a_layer_of_ones_own(file_with_own_layer, tmp_path):
    images = ["--data", "digits", "--image-size", "8", "--train-examples", "50"]
    arguments = ["--teacher", str(file_with_own_layer), *images, "--templates", "4"]
    arguments += ["--levels", "penultimate", "--out", str(tmp_path / "prototypes.npz")]
    with pytest.raises(ValueError, match="with 'Half'"):
        prototypes_command.main(arguments)
    prototypes_command.main([*arguments, "--import", "own_layers"])
    assert (tmp_path / "prototypes.npz").exists()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (export_command, "own.keras --formats tflite --out x"),
        (sweep, "own.keras --out x"),
        (verify, "x --model own.keras"),
    ],
)
def test_commands_of_the_export_import_modules_too(command, arguments, file_with_own_layer):
    command.parse([*arguments.split(), "--import", "own_layers"])
    assert "own_layers>Half" in keras.saving.get_custom_objects()
