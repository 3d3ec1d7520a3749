import keras
import numpy as np
import pytest

from letkd_keras import models

# Channels of the stage ends, and the side of the grid of the first; each further grid is half.
# RepDistiller's feature lists; those of MobileNets on ImageNet are this package's choice.
STAGE_ENDS = {
    **{f"resnet{depth}": (32, (16, 32, 64)) for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8x1.2": (32, (19, 38, 76)),
    "resnet8x1.75": (32, (28, 56, 112)),
    "resnet8x4": (32, (64, 128, 256)),
    "resnet32x4": (32, (64, 128, 256)),
    "resnet50": (32, (256, 512, 1024, 2048)),
    "wrn16_1": (32, (16, 32, 64)),
    "wrn40_1": (32, (16, 32, 64)),
    "wrn16_2": (32, (32, 64, 128)),
    "wrn40_2": (32, (32, 64, 128)),
    "snv1": (16, (240, 480, 960)),
    "snv2": (16, (116, 232, 464)),
    "mnv2": (16, (12, 16, 48, 160)),
    "imagenet_resnet18": (56, (64, 128, 256, 512)),
    "imagenet_resnet34": (56, (64, 128, 256, 512)),
    "imagenet_resnet50": (56, (256, 512, 1024, 2048)),
    "imagenet_mobilenet_v1": (56, (128, 256, 512, 1024)),
    "imagenet_mobilenet_v2": (56, (24, 32, 96, 320)),
}
# The layers of the published networks whose outputs the endpoints are.
SOURCES = {
    "resnet20": {
        "stage1": "layer1_2_relu2",
        "stage2": "layer2_2_relu2",
        "stage3": "layer3_2_relu2",
    },
    "wrn16_2": {
        "stage1": "block1_layer_1_add",
        "stage2": "block2_layer_1_add",
        "stage3": "block3_layer_1_add",
        "penultimate": "relu",
    },
    "snv1": {"stage1": "layer1_3_relu3", "stage2": "layer2_7_relu3", "stage3": "layer3_3_relu3"},
    "snv2": {"stage1": "layer1_3_shuffle", "stage3": "layer3_3_shuffle", "penultimate": "relu2"},
    "mnv2": {
        "stage1": "blocks_1_1_add",
        "stage2": "blocks_2_2_add",
        "stage3": "blocks_4_2_add",
        "stage4": "blocks_6_0_conv_7",  # one unit, no shortcut: its batch normalisation
        "penultimate": "conv2_2",
    },
    "imagenet_mobilenet_v2": {"stage3": "features_13_add", "stage4": "features_17_conv_3"},
    "imagenet_mobilenet_v1": {"stage1": "model_3_5", "stage3": "model_11_5"},
}


def test_the_table_of_stage_ends_is_complete():
    assert set(STAGE_ENDS) == set(models.names())


def test_stage_ends_are_those_of_the_compared_methods(network):
    side, channels = STAGE_ENDS[network.name]
    expected = {
        f"stage{halvings + 1}": (None, side // 2**halvings, side // 2**halvings, width)
        for halvings, width in enumerate(channels)
    }
    ends = {layer.name: layer.output.shape for layer in network.layers if _is_stage_end(layer)}
    assert ends == expected
    for name, source in SOURCES.get(network.name, {}).items():
        assert _source(network, name) == source


def _is_stage_end(layer):
    return layer.name.startswith("stage")


def _source(model, name):
    """The layer whose output an endpoint names, other endpoints passed by."""
    layer = model.get_layer(name)
    while isinstance(layer, keras.layers.Identity):
        layer = layer.input._keras_history.operation
    return layer.name


def test_a_kd_layer_after_penultimate_does_not_change_a_stage_end(network):
    source = network.get_layer("penultimate").input._keras_history.operation
    last = f"stage{len(STAGE_ENDS[network.name][1])}"
    if _source(network, last) == _source(network, "penultimate"):
        assert source.name == last
    readers = [node.operation.name for node in network.get_layer("penultimate")._outbound_nodes]
    assert readers == ["avgpool"]


def test_endpoints_change_nothing(network):
    for name in ("intermediate", "penultimate", "stage1", "stage2", "stage3"):
        layer = network.get_layer(name)
        assert isinstance(layer, keras.layers.Identity)
        assert not layer.weights


def test_every_network_has_both_levels_and_gives_logits(network):
    levels = ("intermediate", "penultimate")
    shapes = [network.get_layer(level).output.shape for level in levels]
    assert all(len(shape) == 4 for shape in shapes)
    assert shapes[0][1:3] == shapes[1][1:3]
    assert network.output_shape == (None, 100)
    assert network.layers[-1].activation is keras.activations.linear
    assert network.name in models.names()


def test_the_grid_follows_the_image_and_may_be_unknown():
    assert models.build("resnet8", 10, (64, 48, 3)).get_layer("penultimate").output.shape == (
        None,
        16,
        12,
        64,
    )
    free = models.build("resnet8", 10, (None, None, 1))
    assert free(np.zeros((2, 20, 24, 1), "float32")).shape == (2, 10)


def test_the_number_of_classes_may_be_an_integer_of_numpy():
    labels = np.array([0, 1, 2])
    assert models.build("resnet8", labels.max() + 1).output_shape == (None, 3)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match=r"one of resnet8, .*'resnet21'.*mean 'resnet"):
        models.build("resnet21")
    with pytest.raises(ValueError, match=r"`num_classes` must be .*num_classes=1"):
        models.build("resnet8", num_classes=1)
    with pytest.raises(ValueError, match=r"`num_classes` must be .*num_classes=10.0"):
        models.build("resnet8", num_classes=10.0)
    with pytest.raises(ValueError, match=r"`num_classes` must be .*num_classes=True"):
        models.build("resnet8", num_classes=True)
    with pytest.raises(ValueError, match=r"`input_shape` must be .*\(32, 32\)"):
        models.build("resnet8", input_shape=(32, 32))
    with pytest.raises(ValueError, match=r"`input_shape` must be .*input_shape=32$"):
        models.build("resnet8", input_shape=32)


@pytest.mark.parametrize(
    "given, suggested",
    [
        ("resnet18", "imagenet_resnet18"),
        ("ResNet34", "imagenet_resnet34"),
        ("mobilenet_v1", "imagenet_mobilenet_v1"),
        ("mobilenetv2", "imagenet_mobilenet_v2"),
        ("wrn-16-2", "wrn16_2"),
        ("resnet32x", "resnet32x4"),
        ("mobile", "imagenet_mobilenet_v2"),
    ],
)
def test_the_suggested_name_contains_the_given_one_or_is_close(given, suggested):
    with pytest.raises(ValueError, match=rf"name='{given}'\. Did you mean '{suggested}'\?"):
        models.build(given)


@pytest.mark.parametrize("given", ["", "perceiver", None])
def test_nothing_is_suggested_where_nothing_is_close(given):
    with pytest.raises(ValueError, match=rf"Received: name={given!r}\.$"):
        models.build(given)


def _dense(num_classes, input_shape, name):
    inputs = keras.Input(input_shape)
    outputs = keras.layers.Dense(num_classes)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, outputs, name=name)


def test_a_network_of_ones_own_is_built_by_its_name(monkeypatch):
    monkeypatch.setattr(models.zoo, "_ADDED", {})
    models.add_network("mine_2", _dense)
    models.add_network("mine_2", _dense)  # the module may be imported again
    assert models.names()[-1] == "mine_2"
    model = models.build("mine_2", num_classes=3, input_shape=(4, 4, 1))
    assert (model.name, model.input_shape, model.output_shape) == (
        "mine_2",
        (None, 4, 4, 1),
        (None, 3),
    )
    assert models.build("mine_2").output_shape == (None, 100)
    models.check_network_name("mine_2")


@pytest.mark.parametrize(
    ("name", "builder", "message"),
    [
        ("my-net", _dense, "must be a letter, then letters"),
        ("own:net", _dense, "must be a letter, then letters"),
        ("own.keras", _dense, "must be a letter, then letters"),
        ("_own", _dense, "must be a letter, then letters"),
        (1, _dense, "must be a letter, then letters"),
        ("resnet8", _dense, "must be new"),
        ("mine", 1, "must be a function"),
    ],
)
def test_a_network_of_ones_own_has_a_new_name_and_a_function(name, builder, message, monkeypatch):
    monkeypatch.setattr(models.zoo, "_ADDED", {})
    with pytest.raises(ValueError, match=message):
        models.add_network(name, builder)
    assert models.zoo._ADDED == {}


class _OfAClass(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("made", "received"),
    [
        (None, "NoneType"),
        (_OfAClass(), "_OfAClass"),
        (keras.Sequential([keras.layers.Dense(3)]), "Sequential"),
        (_dense(2, (4, 4, 1), "x"), r"from \(None, 4, 4, 1\) to \(None, 2\)"),
        (_dense(3, (5, 5, 1), "x"), r"from \(None, 5, 5, 1\) to \(None, 3\)"),
    ],
)
def test_a_network_of_ones_own_takes_the_images_and_has_the_classes(made, received, monkeypatch):
    monkeypatch.setattr(models.zoo, "_ADDED", {"mine": lambda **options: made})
    expected = r"`builder` of mine must return .* from \(None, 4, 4, 1\) to \(None, 3\)\. "
    with pytest.raises(ValueError, match=f"{expected}Received: {received}"):
        models.build("mine", num_classes=3, input_shape=(4, 4, 1))


def test_a_network_of_ones_own_gives_logits(monkeypatch):
    def with_softmax(**options):
        return keras.Sequential([_dense(**options), keras.layers.Softmax()])

    monkeypatch.setattr(models.zoo, "_ADDED", {"mine": with_softmax})
    model = models.build("mine", num_classes=3, input_shape=(4, 4, 1))
    sums = keras.ops.sum(model(keras.random.normal((5, 4, 4, 1))), axis=-1)
    assert float(keras.ops.max(keras.ops.abs(sums - 1))) > 0.01
