import keras
import numpy as np
import pytest
from keras import layers

from letkd_keras import KDLayer, insert_kd_layers, models
from letkd_keras.functional.graph import (
    find_layer,
    flatten,
    maker,
    nodes,
    output_of,
    output_shape_of,
)
from letkd_keras.functional.layer_suggestions import suggest_layers, suggest_stage_ends

# Penultimate and intermediate layer with their channels, reasoned from each network's design: the
# last map, and the end of the first block on its grid. Images of 64 x 64 give grids of 2 x 2.
APPLICATIONS = {
    # Keras' version 2 has the stride in the last block of a stage.
    "ResNet50V2": ("post_relu", 2048, "conv4_block6_out", 1024),
    "MobileNet": ("conv_pw_13_relu", 1024, "conv_pw_12_relu", 1024),
    "MobileNetV2": ("out_relu", 1280, "block_13_project_BN", 160),
    "MobileNetV3Small": ("activation_17", 576, "expanded_conv_8_project_bn", 96),
    "EfficientNetB0": ("top_activation", 1280, "block6a_project_bn", 192),
    "DenseNet121": ("relu", 1024, "conv5_block1_concat", 544),
    # The addition of the first of three blocks, not the downsampling convolution before it.
    "ConvNeXtTiny": ("add_17", 768, "add_15", 768),
    # No convolution on the last grid.
    "VGG16": ("block5_pool", 512, None, None),
}
SLOW_APPLICATIONS = {
    "ResNet50": ("conv5_block3_out", 2048, "conv5_block1_out", 2048),
    "EfficientNetV2B0": ("top_activation", 1280, "block6a_project_bn", 192),
    "MobileNetV3Large": ("activation_19", 960, "expanded_conv_12_project_bn", 160),
    # Every cell reads the two cells before it: no map of the last grid has all that follows.
    "NASNetMobile": ("activation_187", 1056, None, None),
    "DenseNet169": ("relu", 1664, "conv5_block1_concat", 672),
    "VGG19": ("block5_pool", 512, None, None),
    "ConvNeXtSmall": ("add_35", 768, "add_33", 768),
}


def _application(name, size=64, **kwargs):
    keras.utils.clear_session()  # the numbers in automatic names start again
    builder = getattr(keras.applications, name)
    return builder(weights=None, classes=3, input_shape=(size, size, 3), **kwargs)


def _check_application(name, expected):
    model = _application(name)
    suggested = suggest_layers(model)
    assert (suggested["penultimate"], suggested["intermediate"]) == expected[::2]
    for level, channels in zip(("penultimate", "intermediate"), expected[1::2], strict=True):
        if channels:
            assert output_shape_of(model, suggested[level]) == (1, 2, 2, channels)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_layers_of_keras_applications(name):
    _check_application(name, APPLICATIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_APPLICATIONS)
def test_layers_of_more_keras_applications(name):
    _check_application(name, SLOW_APPLICATIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, penultimate, intermediate",
    [("Xception", (4, 4, 2048), (4, 4, 1024)), ("InceptionV3", (2, 2, 2048), (2, 2, 1280))],
)
def test_layers_of_networks_that_need_larger_images(name, penultimate, intermediate):
    """Xception: the addition before the last block; InceptionV3: its first module of three."""
    model = _application(name, 128)
    suggested = suggest_layers(model)
    assert output_shape_of(model, suggested["penultimate"])[1:] == penultimate
    assert output_shape_of(model, suggested["intermediate"])[1:] == intermediate
    layer = find_layer(model, suggested["intermediate"])
    assert isinstance(layer, layers.Add if name == "Xception" else layers.Concatenate)


# Open image sizes


def _mobilenet_of_any_size(classes=3):
    keras.utils.clear_session()
    return keras.applications.MobileNetV3Small(weights=None, classes=classes)


def test_open_image_sizes_do_not_matter():
    model = _mobilenet_of_any_size()
    assert model.input_shape == (None, None, None, 3)
    before = [len(layer._inbound_nodes) for layer in model.layers]
    expected = APPLICATIONS["MobileNetV3Small"]
    assert suggest_layers(model) == {"penultimate": expected[0], "intermediate": expected[2]}
    assert suggest_stage_ends(model) == suggest_stage_ends(_application("MobileNetV3Small"))
    # The layers were not called.
    assert [len(layer._inbound_nodes) for layer in model.layers] == before


def test_a_student_of_open_size_trains_with_kd_layers():
    student = _mobilenet_of_any_size()
    kd_layers = {"penultimate": KDLayer(7, name="p"), "intermediate": KDLayer(6, name="i")}
    names = {f"{level}_layer": name for level, name in suggest_layers(student).items()}
    student = insert_kd_layers(student, **kd_layers, **names)
    x = np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)).astype("float32")
    assert output_shape_of(student, "p", x.shape[1:]) == (1, 2, 3, 576)
    assert output_shape_of(student, "i", x.shape[1:]) == (1, 2, 3, 96)
    before = [np.array(layer.template_kernel) for layer in kd_layers.values()]
    student.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(student.train_on_batch(x, np.array([0, 2])))
    for layer, kernel in zip(kd_layers.values(), before, strict=True):
        assert np.isfinite(layer.template_kernel).all()
        assert not np.array_equal(layer.template_kernel, kernel)


# Networks built otherwise


@keras.saving.register_keras_serializable("test_layer_suggestions")
class Convolution(layers.Layer):
    """A convolution with normalization as one layer."""

    def __init__(self, channels, strides=1, **kwargs):
        super().__init__(**kwargs)
        self.convolution = layers.Conv2D(channels, 3, strides=strides, padding="same")
        self.normalization = layers.BatchNormalization()

    def call(self, inputs, training=None):
        return self.normalization(self.convolution(inputs), training=training)


@keras.saving.register_keras_serializable("test_layer_suggestions")
class Block(layers.Layer):
    """Two convolutions and a shortcut as one layer."""

    def __init__(self, channels, strides=1, outputs=1, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Convolution(channels, strides), Convolution(channels)
        self.shortcut = layers.Conv2D(channels, 1, strides=strides)
        self.outputs = outputs

    def call(self, inputs, training=None):
        x = self.second(keras.ops.relu(self.first(inputs, training=training)), training=training)
        x = x + self.shortcut(inputs)
        return x if self.outputs == 1 else (keras.ops.relu(inputs), x)


def _classifier(features, inputs):
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(features)))


@pytest.mark.parametrize("size", [32, None])
def test_composite_layers_are_blocks(size):
    inputs = keras.Input((size, size, 3))
    x = Convolution(4, 2, name="stem")(inputs)
    x = Block(4, name="block1")(x)
    x = Convolution(8, 2, name="downsampling")(x)
    x = Block(8, name="block2")(x)
    x = layers.ReLU(name="relu2")(Block(8, name="block3")(x))
    model = _classifier(Convolution(9, name="head")(x), inputs)
    assert suggest_layers(model) == {"penultimate": "head", "intermediate": "block2"}
    # A stage end is the last map of the grid, here the first of the two blocks.
    assert suggest_stage_ends(model) == ["block1", "head"]


def test_a_composite_layer_with_its_activation_may_be_the_block():
    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU(name="relu")(Block(4, 2, name="block1")(inputs))
    model = _classifier(Convolution(8, name="head")(x), inputs)
    assert suggest_layers(model)["intermediate"] == "relu"


def test_a_sum_before_any_convolution_of_the_last_grid_is_no_block():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.Add(name="sum")([layers.MaxPooling2D()(x), layers.AveragePooling2D(2)(x)])
    x = layers.Identity(name="last")(x)
    assert suggest_layers(_classifier(x, inputs)) == {"penultimate": "last", "intermediate": None}


def test_there_is_no_intermediate_layer_where_one_layer_is_the_whole_network():
    inputs = keras.Input((32, 32, 3))
    _, x = Block(4, 2, outputs=2, name="encoder")(inputs)
    model = _classifier(Convolution(8, name="head")(x), inputs)
    assert suggest_layers(model) == {"penultimate": "head", "intermediate": None}
    assert suggest_stage_ends(model) == ["head"]


class Mixing(layers.Layer):
    """Attention and a shortcut as one layer, whose name does not say it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mixing = layers.MultiHeadAttention(2, 3)

    def call(self, inputs):
        return inputs + self.mixing(inputs, inputs)


def test_attention_inside_a_layer_begins_a_block():
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 6))(layers.Conv2D(6, 4, 4)(inputs))
    for number in range(3):
        x = Mixing(name=f"mixing{number}")(x)
        y = layers.Dense(6)(layers.Dense(8, activation="gelu")(x))
        x = layers.Add(name=f"block{number}")([x, y])
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    assert suggest_stage_ends(model) == ["block0", "block1", "block2"]


def test_one_dense_layer_is_no_block():
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 6))(layers.Conv2D(6, 4, 4)(inputs))
    for number in range(4):
        x = Mixing(name=f"mixing{number}")(x)
        x = layers.Dense(6, name=f"dense{number}")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    assert suggest_layers(model) == {"penultimate": "dense3", "intermediate": "mixing2"}


def test_patches_that_are_merged_last_are_a_stage():
    inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 6))(layers.Conv2D(6, 4, 4)(inputs))
    x = layers.Reshape((4, 24), name="merged")(Mixing(name="mixing")(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    assert suggest_stage_ends(model) == ["mixing", "merged"]


@pytest.mark.slow
def test_keras_hub_is_understood():
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3, 3],
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[8, 8, 16],
        stackwise_output_filters=[8, 16, 24],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0, 0, 0.25],
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["fused", "fused", "unfused"],
        width_coefficient=1.0,
        depth_coefficient=1.0,
    )
    inputs = keras.Input((64, 64, 3))
    model = _classifier(backbone(inputs), inputs)
    assert suggest_layers(model) == {"penultimate": "top_activation", "intermediate": "block3a_"}


def test_preprocessing_is_no_stage():
    inputs = keras.Input((48, 48, 3))
    x = layers.RandomFlip(name="flip")(layers.Rescaling(1 / 255, name="rescaling")(inputs))
    x = layers.Resizing(32, 32, name="resizing")(x)
    x = layers.Normalization(mean=[0.5] * 3, variance=[1] * 3, name="normalization")(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="last")(x)
    assert suggest_stage_ends(_classifier(x, inputs)) == ["stem", "last"]


@pytest.mark.parametrize("width", [33, 99])
def test_grids_that_shrink_without_padding_are_one_stage(width):
    inputs = keras.Input((33, width, 3))
    x = layers.Conv2D(4, 3, name="a")(inputs)  # 31 x 31
    x = layers.Conv2D(4, 3, name="b")(x)  # 29 x 29
    x = layers.Conv2D(8, 3, strides=2, name="c")(x)  # 14 x 14
    x = layers.Conv2D(8, 3, name="d")(x)  # 12 x 12
    assert suggest_stage_ends(_classifier(x, inputs)) == ["b", "d"]


def test_layers_of_a_nested_backbone_are_suggested():
    backbone = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(64, 64, 3)
    )
    inputs = keras.Input((64, 64, 3))
    model = _classifier(backbone(inputs), inputs)
    expected = {"penultimate": "out_relu", "intermediate": "block_13_project_BN"}
    assert suggest_layers(model) == expected
    assert output_of(flatten(model), find_layer(flatten(model), "out_relu")).shape[1:] == (
        2,
        2,
        1280,
    )


def test_a_normalization_may_be_in_another_model_than_its_convolution():
    x = inputs = keras.Input((8, 8, 3))
    for number in (1, 2):
        inner = keras.Input((8, 8, 4))
        activated = layers.ReLU(name=f"relu{number}")(layers.BatchNormalization()(inner))
        x = keras.Model(inner, activated)(layers.Conv2D(4, 3, padding="same")(x))
    model = keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))
    assert suggest_layers(model) == {"penultimate": "relu2", "intermediate": "relu1"}


@pytest.mark.parametrize("relu", [keras.ops.relu, keras.activations.relu])
def test_operations_on_tensors_count_like_layers(relu):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    x = layers.Conv2D(4, 3, padding="same")(x) + layers.Conv2D(4, 1)(x)
    first = relu(x)
    last = relu(first + layers.Conv2D(4, 3, padding="same")(first))
    model = keras.Model(inputs, layers.Dense(3)(keras.ops.mean(last, axis=(1, 2))))
    expected = {"penultimate": maker(last).name, "intermediate": maker(first).name}
    assert suggest_layers(model) == expected


# The zoo


@pytest.mark.parametrize("name", ["resnet8", "wrn16_1", "snv1", "mnv2"])
def test_without_names_the_zoos_layers_are_the_papers(name):
    named = models.build(name, num_classes=3)
    unnamed = _without_names(named)
    for level, suggested in suggest_layers(unnamed).items():
        expected = find_layer(unnamed, f"was_{level}")
        suggested = find_layer(unnamed, suggested)
        assert _source(unnamed, suggested) is _source(unnamed, expected)


def _without_names(model):
    """The same network with other names for its endpoints."""

    def clone(layer):
        config = layer.get_config()
        if layer.name in ("penultimate", "intermediate") or layer.name.startswith("stage"):
            config["name"] = f"was_{layer.name}"
        return layer.__class__.from_config(config)

    return keras.models.clone_model(model, clone_function=clone)


def _source(model, layer):
    """The layer whose output an identity hands on."""
    while isinstance(layer, layers.Identity):
        (node,) = (node for node in nodes(model) if node.operation is layer)
        layer = maker(node.input_tensors[0])
    return layer


def test_the_zoo_names_its_layers():
    expected = {"penultimate": "penultimate", "intermediate": "intermediate"}
    assert suggest_layers(models.build("snv2", num_classes=3)) == expected


def test_layers_named_after_stages_are_the_stage_ends():
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for stage in range(1, 11):
        x = layers.Conv2D(2, 1, name=f"stage{stage}")(x)
    model = _classifier(layers.Conv2D(2, 1, name="stage_head")(x), inputs)
    assert suggest_stage_ends(model) == [f"stage{stage}" for stage in range(1, 11)]


def test_stages_end_with_the_last_map_of_a_grid():
    model = _application("ResNet50")
    ends = {name: output_shape_of(model, name)[1:] for name in suggest_stage_ends(model)}
    assert ends == {
        "conv1_relu": (32, 32, 64),
        "conv2_block3_out": (16, 16, 256),
        "conv3_block4_out": (8, 8, 512),
        "conv4_block6_out": (4, 4, 1024),
        "conv5_block3_out": (2, 2, 2048),
    }


def test_the_last_stage_ends_with_the_penultimate_layer_of_two_branches():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="shared")(image)
    maps = [layers.Conv2D(4, 3, strides=2, name=name)(x) for name in ("left", "right")]
    pooled = layers.Concatenate()([layers.GlobalAveragePooling2D()(each) for each in maps])
    model = keras.Model(image, layers.Dense(3)(pooled))
    penultimate = suggest_layers(model)["penultimate"]
    assert penultimate in ("left", "right")
    assert suggest_stage_ends(model) == ["shared", penultimate]


@pytest.mark.parametrize("convolution", [layers.Conv2D, layers.SeparableConv2D])
def test_an_activation_may_be_the_convolutions_own(convolution):
    x = inputs = keras.Input((16, 16, 3))
    for number, stride in enumerate((2, 1, 2, 1)):
        options = {"padding": "same", "name": f"conv{number}"}
        x = convolution(4, 3, stride, activation=keras.activations.relu, **options)(x)
    model = _classifier(x, inputs)
    intermediate = "conv2" if convolution is layers.Conv2D else None
    assert suggest_layers(model) == {"penultimate": "conv3", "intermediate": intermediate}


def test_a_convolution_without_an_activation_is_no_intermediate_layer():
    x = inputs = keras.Input((16, 16, 3))
    for number, activation in enumerate((None, "linear", "gelu", "relu")):
        x = layers.Conv2D(4, 3, activation=activation, padding="same", name=f"conv{number}")(x)
    assert suggest_layers(_classifier(x, inputs))["intermediate"] == "conv2"


def _with_one_activation(blocks):
    """A network of two stages that calls one ReLU layer again and again."""
    relu = layers.ReLU(name="relu")
    inputs = keras.Input((16, 16, 3))
    x = relu(layers.Conv2D(4, 3, padding="same", name="stem")(inputs))
    for stage, strides in ((1, 1), (2, 2)):
        x = layers.Conv2D(4, 3, strides, padding="same", name=f"conv{stage}")(x)
        x = relu(layers.BatchNormalization(name=f"bn{stage}")(x))
        for block in range(blocks):
            y = layers.Conv2D(4, 3, padding="same")(x)
            x = relu(layers.Add(name=f"add{stage}{block}")([x, y]))
    return _classifier(x, inputs)


@pytest.mark.parametrize(
    ("blocks", "penultimate", "intermediate", "end"),
    [(2, "add21", "add20", "add11"), (0, "bn2", None, "bn1")],
    ids=["residual", "plain"],
)
def test_an_activation_that_is_called_again_is_not_suggested(
    blocks, penultimate, intermediate, end
):
    model = _with_one_activation(blocks)
    suggested = suggest_layers(model)
    assert suggested == {"penultimate": penultimate, "intermediate": intermediate}
    assert suggest_stage_ends(model) == [end, penultimate]
    insert_kd_layers(model, KDLayer(4), penultimate_layer=penultimate)


def test_a_layer_that_is_called_again_is_no_end_of_a_block_or_stage():
    relu = layers.ReLU(name="relu")  # one for the whole network, but for its last call
    x = inputs = keras.Input((16, 16, 3))
    for stage in (1, 2):
        x = relu(layers.Conv2D(4, 3, 2, padding="same")(x))
        for block in (1, 2):
            y = layers.Conv2D(4, 3, padding="same")(relu(layers.Conv2D(4, 3, padding="same")(x)))
            x = layers.Add(name=f"sum{stage}{block}")([x, y])
            x = layers.ReLU(name="last")(x) if stage == block == 2 else relu(x)
    model = _classifier(x, inputs)
    assert suggest_layers(model) == {"penultimate": "last", "intermediate": "sum21"}
    assert suggest_stage_ends(model) == ["sum12", "last"]


def _with_one_convolution(*last):
    """A network of two stages that calls one convolution in each of them, and `last` at its end."""
    x = inputs = keras.Input((16, 16, 3))
    shared = layers.Conv2D(4, 3, padding="same", activation="relu", name="shared")
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="stem")(inputs)
    x = layers.MaxPooling2D(name="pool")(shared(x))
    for layer in (shared, *last):
        x = layer(x)
    return _classifier(x, inputs)


@pytest.mark.parametrize("suggest", [suggest_layers, suggest_stage_ends])
def test_a_last_layer_that_is_called_again_is_refused_with_advice(suggest):
    with pytest.raises(ValueError, match=r"keras.layers.Identity\(name=.*'shared' several times$"):
        suggest(_with_one_convolution())


def test_a_layer_with_weights_that_is_called_again_is_not_suggested():
    model = _with_one_convolution(layers.Identity(name="end"))
    assert suggest_layers(model) == {"penultimate": "end", "intermediate": None}
    assert suggest_stage_ends(model) == ["stem", "end"]
    insert_kd_layers(model, KDLayer(4))


def test_a_sum_that_is_called_again_is_no_block():
    add = layers.Add(name="again")
    x = inputs = keras.Input((16, 16, 3))
    for number in range(4):
        y = layers.Conv2D(3, 3, padding="same", name=f"conv{number}")(x)
        x = (add if number < 2 else layers.Add(name=f"sum{number}"))([x, y])
    model = _classifier(x, inputs)
    assert suggest_layers(model) == {"penultimate": "sum3", "intermediate": "sum2"}
    insert_kd_layers(model, KDLayer(4), KDLayer(4))


def test_a_dropout_that_is_called_again_is_passed_over():
    dropout = layers.Dropout(0.1, name="dropout")
    inputs = keras.Input((16, 16, 3))
    x = dropout(layers.Conv2D(4, 3, name="stem")(inputs))
    x = dropout(layers.Conv2D(4, 3, name="last")(x))
    assert suggest_layers(_classifier(x, inputs))["penultimate"] == "last"


def test_a_block_of_tokens_that_is_called_again_is_not_suggested():
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 8))(layers.Conv2D(8, 4, 4)(x))
    add = layers.Add(name="again")
    for number in range(4):
        x = layers.Add(name=f"sum{number}")([x, layers.MultiHeadAttention(1, 8)(x, x)])
        x = (add if number == 2 else layers.Add(name=f"end{number}"))([x, layers.Dense(8)(x)])
    x = add([x, layers.Dense(8)(x)])
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    assert suggest_layers(model) == {"penultimate": "norm", "intermediate": "end1"}


@pytest.mark.parametrize(
    "end",
    [
        [layers.GlobalAveragePooling2D()],
        [layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D()],
        [layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten(), layers.Softmax()],
        [layers.AveragePooling2D(16), layers.Reshape((10,))],
    ],
    ids=["pooling", "normalized", "kept", "of a size"],
)
def test_pooled_class_scores_are_no_features(end):
    x = inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(x)
    parts = [layers.Conv2D(4, size, padding="same")(x) for size in (1, 3)]
    x = layers.Conv2D(12, 1)(layers.Concatenate(name="fire")(parts))
    x = layers.ReLU(name="last")(x)
    x = layers.Conv2D(10, 1, name="scores")(x)
    for layer in end:
        x = layer(x)
    model = keras.Model(inputs, x)
    assert suggest_layers(model) == {"penultimate": "last", "intermediate": "fire"}
    assert suggest_stage_ends(model) == ["last"]
    student = insert_kd_layers(model, penultimate=KDLayer(4, name="kd"))
    assert student.get_layer("kd").input.shape[-1] == 12


class OwnHead(layers.Layer):
    """A classifier whose weights are no kernels."""

    def build(self, input_shape):
        self.centers = self.add_weight(shape=(input_shape[-1], 3), name="centers")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.centers)


def test_the_maps_of_a_last_convolution_are_class_scores_only_if_there_are_as_many():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="first")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, name="last")(x))
    assert suggest_layers(keras.Model(inputs, OwnHead()(x)))["penultimate"] == "last"


def test_a_model_without_maps_before_its_classifier_is_refused():
    inputs = keras.Input((8,))
    with pytest.raises(ValueError, match=r"must have a feature map .* pools or flattens"):
        suggest_layers(keras.Model(inputs, layers.Dense(3)(inputs)))
