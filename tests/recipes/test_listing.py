import importlib.util
import re

import keras
import pytest
from tables_restored import tables_restored

from letkd_keras import KDLayer, insert_kd_layers, models
from letkd_keras.functional import cost_of
from letkd_keras.losses import LOGIT_LOSSES
from letkd_keras.recipes import cifar100, imagenet, tiny_imagenet
from letkd_keras.recipes.__main__ import main
from letkd_keras.recipes.experiments import published
from letkd_keras.recipes.listing import SETTINGS, _published_tables, kd_rows, network_row
from letkd_keras.recipes.reports.method_table import published_text


def test_networks_are_counted_without_weights():
    row = network_row("resnet8", tiny_imagenet.SETTINGS)
    built = models.build("resnet8", num_classes=200, input_shape=(64, 64, 3))
    assert row.cost == cost_of(built)
    assert row.penultimate == row.intermediate == (16, 16, 64)


def test_grids_of_networks_are_height_width_and_channels():
    keras.config.set_image_data_format("channels_first")
    try:
        row = network_row("resnet20", cifar100.SETTINGS)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert (row.penultimate, row.intermediate) == ((8, 8, 64), (8, 8, 64))


def test_a_layer_of_a_network_of_the_user_may_have_no_grid():
    def flat(num_classes, input_shape, name):
        inputs = keras.Input(input_shape)
        x = keras.layers.Dense(8, name="penultimate")(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(x), name=name)

    keras.config.set_image_data_format("channels_first")
    try:
        with tables_restored():
            models.add_network("flat", flat)
            row = network_row("flat", cifar100.SETTINGS)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert (row.penultimate, row.intermediate) == ((8,), None)


def test_costs_of_kd_layers_are_those_of_a_student_with_them():
    settings = cifar100.SETTINGS
    pair = settings.find_pair("resnet56-resnet20")
    letkd1, letkd2 = kd_rows(pair, network_row("resnet20", settings), settings)
    student = models.build("resnet20", num_classes=100)
    for row, layers in (
        (letkd1, {"penultimate": KDLayer(4096)}),
        (letkd2, {"penultimate": KDLayer(4096), "intermediate": KDLayer(800)}),
    ):
        with_layers = insert_kd_layers(student, **layers)
        assert row.cost == cost_of(with_layers)
        assert row.pooled == cost_of(with_layers, pooled=True)
        # Of 64 products with the values at the penultimate layer, one is left.
        saved = row.cost.multiply_adds - row.pooled.multiply_adds
        assert saved == 63 * 64 * 4096


@pytest.mark.parametrize(
    "pair, parameters, multiply_adds",
    [
        ("wrn40_2-wrn16_2", 2.8, None),
        ("resnet32x4-snv2", 7.7, None),
        ("wrn40_2-snv1", 10.9, 4.9),
        ("resnet50-mnv2", 14.1, 7.5),
    ],
)
def test_factors_of_letkd2(pair, parameters, multiply_adds):
    settings = cifar100.SETTINGS
    pair = settings.find_pair(pair)
    student = network_row(pair.student, settings)
    cost = kd_rows(pair, student, settings)[1].cost
    factor = cost.parameters / student.cost.parameters
    assert factor == pytest.approx(parameters, abs=0.05)
    if multiply_adds:
        factor = cost.multiply_adds / student.cost.multiply_adds
        assert factor == pytest.approx(multiply_adds, abs=0.05)


def test_pairs_without_published_numbers_are_in_no_table_of_them():
    pairs = {row[0] for table in _published_tables(imagenet.SETTINGS) for row in table.rows}
    assert pairs == {
        "imagenet_resnet34-imagenet_resnet18",
        "imagenet_resnet50-imagenet_mobilenet_v1",
    }


def test_without_list_the_recipes_are_named(capsys):
    main([])
    text = capsys.readouterr().out
    assert "--list" in text and "python -m letkd_keras.recipes.NAME" in text
    named = re.findall(r"^  (\w+) {2,}", text.partition("recipes (")[2], re.MULTILINE)
    assert {"digits", "cifar100", "compare", "folder"} <= set(named)
    for name in named:
        assert importlib.util.find_spec(f"letkd_keras.recipes.{name}"), name


def test_list(capsys):
    main(["--list"])
    text = capsys.readouterr().out
    assert "…" not in text  # nothing is cut off
    assert max(map(len, text.splitlines())) <= 80
    for network in models.names():
        assert f"\n{network} " in text
    numbers = 0
    for settings in SETTINGS:
        for pair in settings.pairs:
            assert f"\n{pair.name}" in text
            for row in (published.methods_of, published.ablations_of):
                for accuracy in row(settings.dataset, pair.name).values():
                    assert published_text(accuracy) in text
                    numbers += 1
            for probe in published.probes_of(settings.dataset, pair.name).values():
                assert all(published_text(accuracy) in text for accuracy in probe.values())
    assert numbers > 250
    assert "72.44 ± 0.24" in text and "72.38/91.15" in text
    for method in ("student", "kd", "quest", "letkd1", "letkd2"):
        assert f"\n{method} " in text
    for name, loss in LOGIT_LOSSES.items():
        assert f"\n{name} " in text
        assert loss.paper.split(",")[0] in text
    assert re.search(r"^resnet20 .* 278,324 +40.8 M ", text, re.MULTILINE)
    assert re.search(r" 914,808 \(3.3x\) +80.9 M \(2.0x\)$", text, re.MULTILINE)
