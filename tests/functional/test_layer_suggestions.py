import keras
import pytest
from keras import layers

from letkd_keras import models
from letkd_keras.functional.graph import find_layer, flatten, output_of
from letkd_keras.functional.layer_suggestions import suggest_layers, suggest_stage_ends

# What the maker of the network would name: the last maps, and the end of the first block on their
# grid.
APPLICATIONS = {
    "ResNet50": ("conv5_block3_out", "conv5_block1_out"),
    "MobileNet": ("conv_pw_13_relu", "conv_pw_12_relu"),
    "MobileNetV2": ("out_relu", "block_13_project_BN"),
    "EfficientNetB0": ("top_activation", "block6a_project_bn"),
    "DenseNet121": ("relu", "conv5_block1_concat"),
    "VGG16": ("block5_pool", None),
}


def _proposed(model):
    taps = suggest_layers(model)
    return taps["penultimate"], taps["intermediate"]


@pytest.mark.parametrize("name", APPLICATIONS)
def test_taps_of_keras_applications(name):
    model = getattr(keras.applications, name)(weights=None, classes=3, input_shape=(64, 64, 3))
    assert _proposed(model) == APPLICATIONS[name]


@pytest.mark.parametrize("name", ["resnet8", "wrn16_1", "snv1", "mnv2"])
def test_the_proposal_is_the_papers_where_the_zoo_did_not_name_it(name):
    named = models.build(name, num_classes=3)
    unnamed = _without_names(named)
    for level, proposed in suggest_layers(unnamed).items():
        ours = output_of(unnamed, find_layer(unnamed, proposed))
        assert ours.shape == named.get_layer(level).output.shape
        source = named.get_layer(level).input._keras_history.operation
        assert proposed in (source.name, f"was_{level}")


def _without_names(model):
    """The same network, its taps under other names."""

    def clone(layer):
        config = layer.get_config()
        if layer.name in ("penultimate", "intermediate"):
            config["name"] = f"was_{layer.name}"
        return layer.__class__.from_config(config)

    return keras.models.clone_model(model, clone_function=clone)


def test_the_zoo_names_its_taps():
    assert _proposed(models.build("snv2", num_classes=3)) == ("penultimate", "intermediate")


def test_layers_of_a_nested_backbone_are_proposed():
    backbone = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(64, 64, 3)
    )
    inputs = keras.Input((64, 64, 3))
    x = layers.GlobalAveragePooling2D()(backbone(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    assert _proposed(model) == ("out_relu", "block_13_project_BN")
    assert output_of(flatten(model), find_layer(flatten(model), "out_relu")).shape[1:] == (
        2,
        2,
        1280,
    )


def test_operations_on_tensors_count_like_layers():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    x = layers.Conv2D(4, 3, padding="same")(x) + layers.Conv2D(4, 1)(x)
    first = keras.ops.relu(x)
    last = keras.ops.relu(first + layers.Conv2D(4, 3, padding="same")(first))
    model = keras.Model(inputs, layers.Dense(3)(keras.ops.mean(last, axis=(1, 2))))
    assert _proposed(model) == tuple(x._keras_history.operation.name for x in (last, first))


def test_a_model_without_maps_before_its_classifier_is_refused():
    inputs = keras.Input((8,))
    with pytest.raises(ValueError, match="pool or flatten a feature map"):
        suggest_layers(keras.Model(inputs, layers.Dense(3)(inputs)))


@pytest.mark.parametrize(
    "name, ends",
    [
        ("resnet20", {"layer1_2_relu2": 16, "layer2_2_relu2": 32, "penultimate": 64}),
        # The activated input of the next stage: pre-activation networks have no other end.
        ("wrn16_1", {"block2_layer_0_relu1": 16, "block3_layer_0_relu1": 32, "penultimate": 64}),
        (
            "snv1",
            {"relu": 24, "layer1_3_relu3": 240, "layer2_7_relu3": 480, "penultimate": 960},
        ),
    ],
)
def test_stages_end_with_the_last_map_of_a_grid_that_all_comes_from(name, ends):
    model = models.build(name, num_classes=10)
    proposed = suggest_stage_ends(model)
    assert {tap: model.get_layer(tap).output.shape[-1] for tap in proposed} == ends
