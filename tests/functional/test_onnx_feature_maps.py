import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import helper, numpy_helper
from onnx_files import outputs_at, patch_network, residual_network, save_graph, tensors_of
from small_vit import small_vit

import letkd_keras as letkd
from letkd_keras.export.formats.onnx_file import write_onnx
from letkd_keras.export.options import ExportOptions
from letkd_keras.functional import feature_maps, open_onnx, suggest_layers, suggest_stage_ends

IMAGES = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")


@pytest.fixture
def file(tmp_path):
    return residual_network(tmp_path / "teacher.v1.onnx")


def test_layers_are_suggested_as_for_a_network_of_keras(file):
    model = open_onnx(file)
    assert suggest_layers(model) == {"penultimate": "penultimate", "intermediate": "intermediate"}
    assert suggest_stage_ends(model) == ["stage1", "stage2"]


@pytest.mark.parametrize("network", ["snv1", "mnv2", "resnet20"])
def test_the_layers_of_a_network_of_the_zoo_are_found_in_its_onnx_file(network, tmp_path):
    student = letkd.models.build(network, num_classes=3)
    keras.utils.set_random_seed(0)
    path = letkd.export_student(student, tmp_path, "onnx").path
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    model = open_onnx(path)
    np.testing.assert_allclose(
        model.predict(images, verbose=0),
        student.predict(images, verbose=0),
        rtol=1e-3,
        atol=1e-5,
    )
    shapes = [
        [each.get_layer(name).output.shape for name in ("intermediate", "penultimate")]
        for each in (model, student)
    ]
    assert shapes[0] == shapes[1]


def test_class_scores_that_are_pooled_are_no_features(tmp_path):
    """As in SqueezeNet."""
    file = residual_network(tmp_path / "a.onnx", head="SqueezeNet")
    (expected,) = tensors_of(file, ["b2"], np.moveaxis(IMAGES, -1, 1))
    found = outputs_at(IMAGES, open_onnx(file), "penultimate")
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1), rtol=1e-4, atol=1e-5)


def test_layers_are_found_where_the_graph_counts_the_images_of_its_input(tmp_path):
    """As in ConvNeXt, exported by `torch.onnx.export` with an open number of images."""
    expected = open_onnx(residual_network(tmp_path / "a.onnx")).predict(IMAGES, verbose=0)
    model = open_onnx(residual_network(tmp_path / "b.onnx", head="Shape"))
    assert {"stage1", "intermediate", "penultimate"} <= {layer.name for layer in model.layers}
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, rtol=1e-5, atol=1e-6)


def test_a_map_of_which_tokens_are_made_is_not_the_last_one(tmp_path):
    """As the patches of a vision transformer."""
    model = open_onnx(residual_network(tmp_path / "a.onnx", head="Tokens"))
    assert [layer.name for layer in model.layers] == ["image", "logits"]


@pytest.mark.parametrize(
    ("head", "size", "first", "last"),
    [
        ("Expand", 8, "plain1", "centered"),
        ("Grid", 8, "plain1", "centered"),
        ("Grid", 2, "b1", "centered"),
        ("Two", 8, "sum1", "sum2"),
    ],
)
def test_the_maps_of_other_classifiers(head, size, first, last, tmp_path):
    file = residual_network(tmp_path / "a.onnx", head=head, size=size)
    images = IMAGES[:, :size, :size]
    expected = tensors_of(file, [first, last], np.moveaxis(images, -1, 1))
    model = open_onnx(file)
    found = outputs_at(images, model, "intermediate", "penultimate")
    sides = [model.get_layer(name).output.shape[1] for name in suggest_stage_ends(model)]
    assert sides == sorted(set(sides), reverse=True)
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, np.moveaxis(other, 1, -1), rtol=1e-4, atol=1e-5)


def test_a_pooled_map_may_be_the_class_scores(file):
    """The block that makes it is no last convolution of SqueezeNet."""
    proto = onnx.load(file)
    del proto.graph.node[-2]
    proto.graph.node[-1].input[0] = "flat"
    onnx.save(proto, file)
    (expected,) = tensors_of(file, ["b2"], np.moveaxis(IMAGES, -1, 1))
    found = outputs_at(IMAGES, open_onnx(file), "penultimate")
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1), rtol=1e-4, atol=1e-5)


def test_layers_can_be_named_where_there_is_no_last_map(tmp_path):
    file = residual_network(tmp_path / "a.onnx", head="Tokens")
    for named, expected in (
        ({"intermediate_layer": "b1"}, ["intermediate"]),
        ({"penultimate_layer": "pooled"}, ["stage1", "stage2", "penultimate"]),
        ({"penultimate_layer": "logits"}, ["stage1", "stage2", "penultimate"]),
    ):
        layers = [layer.name for layer in open_onnx(file, **named).layers]
        assert layers == ["image", *expected, "logits"]


def test_a_scaled_image_is_no_feature_map(file, tmp_path):
    """Recipes put the scaling of the pixels before a teacher."""

    def scaled(teacher):
        image = keras.Input((8, 8, 3))
        return keras.Model(image, teacher(keras.layers.Rescaling(2.0)(image)))

    without_maps = open_onnx(residual_network(tmp_path / "a.onnx", head="Tokens"))
    with pytest.raises(ValueError, match="Name the layers"):
        suggest_layers(scaled(without_maps))
    of_one_block = open_onnx(file, penultimate_layer="stem")
    assert suggest_layers(scaled(of_one_block)) == {
        "penultimate": "penultimate",
        "intermediate": None,
    }


def test_a_convolution_over_the_whole_grid_is_part_of_the_classifier(tmp_path):
    model = open_onnx(residual_network(tmp_path / "a.onnx", head="Convolution"))
    assert model.get_layer("stage2").output.shape == (None, 4, 4, 6)
    assert suggest_stage_ends(model) == ["stage1", "stage2"]


def test_the_last_grid_may_be_a_single_location(tmp_path):
    model = open_onnx(residual_network(tmp_path / "a.onnx", size=2))
    assert model.get_layer("intermediate").output.shape == (None, 1, 1, 6)
    assert suggest_stage_ends(model) == ["stage1", "stage2"]


def test_blocks_may_consist_of_matrix_products(tmp_path):
    """As in Swin transformers."""
    file = patch_network(tmp_path / "a.onnx")
    expected = tensors_of(file, ["sum1", "sum2"], np.moveaxis(IMAGES, -1, 1))
    found = outputs_at(IMAGES, open_onnx(file), "intermediate", "penultimate")
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, other, rtol=1e-4, atol=1e-5)


def test_an_image_that_the_graph_scales_is_no_end_of_a_stage(tmp_path):
    file = patch_network(tmp_path / "a.onnx")
    proto = onnx.load(file)
    proto.graph.node[0].input[0] = "scaled"
    proto.graph.node.insert(0, helper.make_node("Add", ["image", "image"], ["scaled"]))
    onnx.save(proto, file)
    model = open_onnx(file)
    shapes = [model.get_layer(name).output.shape for name in suggest_stage_ends(model)]
    assert shapes == [(None, 4, 4, 4), (None, 2, 2, 8)]


def test_the_activation_of_a_convolution_over_all_channels_serves_where_there_are_no_blocks(
    tmp_path,
):
    """As in MobileNet, the second version of which has blocks."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (3, 1, 3, 3), "w2": (6, 3, 1, 1), "w3": (6, 6, 1, 1), "fc": (6, 4)}
    shapes |= dict.fromkeys(("scale", "shift", "mean", "variance"), (6,))
    convolved = {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 3}
    path = save_graph(
        tmp_path / "a.onnx",
        [
            helper.make_node("Conv", ["image", "w1"], ["c1"], **convolved),
            helper.make_node("Relu", ["c1"], ["depthwise"]),
            helper.make_node("Conv", ["depthwise", "w2"], ["c2"]),
            helper.make_node(
                "BatchNormalization", ["c2", "scale", "shift", "mean", "variance"], ["b2"]
            ),
            helper.make_node("Relu", ["b2"], ["pointwise"]),
            helper.make_node("Conv", ["pointwise", "w3"], ["c3"]),
            helper.make_node("Relu", ["c3"], ["last"]),
            helper.make_node("GlobalAveragePool", ["last"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "fc"], ["logits"]),
        ],
        {name: rng.uniform(0.1, 0.5, shape) for name, shape in shapes.items()},
        ["N", 3, 8, 8],
    )
    expected = tensors_of(path, ["pointwise", "last"], np.moveaxis(IMAGES, -1, 1))
    found = outputs_at(IMAGES, open_onnx(path), "intermediate", "penultimate")
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, np.moveaxis(other, 1, -1), rtol=1e-4, atol=1e-5)


def test_a_half_of_the_channels_is_no_end_of_a_stage(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"w1": (6, 3, 1, 1), "w2": (3, 3, 2, 2), "w3": (3, 3, 2, 2), "fc": (6, 4)}
    path = save_graph(
        tmp_path / "a.onnx",
        [
            helper.make_node("Conv", ["image", "w1"], ["first"]),
            helper.make_node("Split", ["first"], ["left", "right"], axis=1),
            helper.make_node("Conv", ["left", "w2"], ["c2"], strides=[2, 2]),
            helper.make_node("Conv", ["right", "w3"], ["c3"], strides=[2, 2]),
            helper.make_node("Concat", ["c2", "c3"], ["last"], axis=1),
            helper.make_node("GlobalAveragePool", ["last"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "fc"], ["logits"]),
        ],
        {name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()},
        ["N", 3, 8, 8],
    )
    model = open_onnx(path)
    shapes = [model.get_layer(name).output.shape for name in suggest_stage_ends(model)]
    assert shapes == [(None, 8, 8, 6), (None, 4, 4, 6)]


@pytest.mark.parametrize("last", ["stem", "a1.sum"])
def test_no_block_after_the_named_last_map_is_the_first_one(last, file):
    layers = [layer.name for layer in open_onnx(file, penultimate_layer=last).layers]
    assert "intermediate" not in layers
    assert layers[-2:] == ["penultimate", "logits"]


def test_a_padded_map_is_no_end_of_a_stage(file):
    proto = onnx.load(file)
    number = next(n for n, node in enumerate(proto.graph.node) if "a2" in node.output)
    for node in proto.graph.node[number + 1 :]:
        node.input[:] = ["padded" if name == "a2" else name for name in node.input]
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    proto.graph.initializer.append(numpy_helper.from_array(pads, "pads"))
    proto.graph.node.insert(number + 1, helper.make_node("Pad", ["a2", "pads"], ["padded"]))
    onnx.save(proto, file)
    assert open_onnx(file).get_layer("stage1").output.shape[1:3] == (8, 8)


def exported(model, tmp_path):
    """The teacher of the ONNX file of a Keras model."""
    write_onnx(model, tmp_path / "model.onnx", ExportOptions())
    return open_onnx(tmp_path / "model.onnx")


def check_same_layers(teacher, model):
    """Compare the layers of a teacher with those that are suggested in the same Keras model."""
    images = np.random.default_rng(0).random((2, *model.input_shape[1:]), "float32")
    names = suggest_layers(model)
    expected = outputs_at(images, model, *names.values(), *suggest_stage_ends(model))
    found = outputs_at(images, teacher, *names, *suggest_stage_ends(teacher))
    assert len(found) == len(expected)
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, other, rtol=1e-3, atol=1e-5)
    (grid,) = {each.shape[1:3] for each in feature_maps(model, list(names.values()))[1]}
    assert {each.shape[1:3] for each in feature_maps(teacher, list(names))[1]} == {grid}


@pytest.mark.parametrize("heads", ["flattened", "flattened and pooled"])
def test_a_map_that_keras_flattens(heads, tmp_path):
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(image)
    for name in ("first", "second"):
        x = layers.Add(name=name)([x, layers.Conv2D(4, 3, padding="same", activation="relu")(x)])
    logits = layers.Dense(3)(layers.Flatten()(x))
    if heads == "flattened and pooled":
        logits += layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, logits)
    assert suggest_layers(model) == {"penultimate": "second", "intermediate": "first"}
    check_same_layers(exported(model, tmp_path), model)


def test_a_flattened_grid_is_not_taken_for_tokens(tmp_path):
    """Six channels of a grid of 2 x 2 have the shape of 2 x 2 patches after two other tokens."""
    file = residual_network(tmp_path / "a.onnx", head="Mean", size=4)
    images = IMAGES[:, :4, :4]
    (expected,) = tensors_of(file, ["b2"], np.moveaxis(images, -1, 1))
    found = outputs_at(images, open_onnx(file), "penultimate")
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1), rtol=1e-4, atol=1e-5)


# === Transformers ===


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"blocks": 6, "tokens": 2},
        {"tokens": 0, "pooling": "mean"},
        {"tokens": 5, "pooling": "both"},
        {"pooling": "patches"},
        {"pooling": "token and patches"},
        {"pooling": "patches before the norm"},
        {"size": (28, 12)},
    ],
)
def test_layers_of_a_vision_transformer(options, tmp_path):
    model = small_vit(**options)
    check_same_layers(exported(model, tmp_path), model)


def attending(x, name, keys=None):
    """A block of attention and a dense layer."""
    channels = x.shape[-1]
    keys = x if keys is None else keys
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3)(x, keys)])
    y = layers.Dense(channels)(layers.Dense(8, activation="gelu")(x))
    return layers.Add(name=name)([x, y])


def tokens_of(x):
    return layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x)


def test_where_patches_are_merged_the_last_stage_counts(tmp_path):
    """As in Swin transformers."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = attending(tokens_of(layers.Conv2D(6, 2, 2)(image)), "first")
    x = layers.Dense(10)(layers.Reshape((16, 24))(x))
    x = attending(attending(x, "second"), "third")
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    assert suggest_layers(model) == {"penultimate": "norm", "intermediate": "second"}
    check_same_layers(exported(model, tmp_path), model)


def test_channels_are_not_taken_for_merged_patches(tmp_path):
    """As in Twins: four channels of 6 x 6 patches could be 2 x 2 patches."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (4, 3, 2, 2), "w2": (4, 4), "w3": (5, 4, 2, 2), "w4": (5, 5), "w5": (5, 5)}
    arrays = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    arrays["fc"] = rng.normal(0, 0.3, (5, 4))
    arrays |= {
        "flat1": np.array([0, 4, 36]),
        "map": np.array([0, 4, 6, 6]),
        "flat2": np.array([0, 5, 9]),
    }
    path = save_graph(
        tmp_path / "a.onnx",
        [
            helper.make_node("Conv", ["image", "w1"], ["patches"], strides=[2, 2]),
            helper.make_node("Reshape", ["patches", "flat1"], ["f1"]),
            helper.make_node("Transpose", ["f1"], ["tokens"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["tokens", "w2"], ["y1"]),
            helper.make_node("Add", ["tokens", "y1"], ["sum1"]),
            helper.make_node("Transpose", ["sum1"], ["t1"], perm=[0, 2, 1]),
            helper.make_node("Reshape", ["t1", "map"], ["m1"]),
            helper.make_node("Conv", ["m1", "w3"], ["merged"], strides=[2, 2]),
            helper.make_node("Reshape", ["merged", "flat2"], ["f2"]),
            helper.make_node("Transpose", ["f2"], ["x"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["x", "w4"], ["y2"]),
            helper.make_node("Add", ["x", "y2"], ["sum2"]),
            helper.make_node("MatMul", ["sum2", "w5"], ["y3"]),
            helper.make_node("Add", ["sum2", "y3"], ["sum3"]),
            helper.make_node("ReduceMean", ["sum3"], ["pooled"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["pooled", "fc"], ["logits"]),
        ],
        arrays,
        ["N", 3, 12, 12],
    )
    model = open_onnx(path)
    shapes = [model.get_layer(name).output.shape for name in suggest_stage_ends(model)]
    assert shapes == [(None, 6, 6, 4), (None, 9, 5)]
    images = rng.normal(size=(2, 12, 12, 3)).astype("float32")
    expected = tensors_of(path, ["sum2", "sum3"], np.moveaxis(images, -1, 1))
    found = outputs_at(images, model, "intermediate", "penultimate")
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, other, rtol=1e-4, atol=1e-5)


def test_stages_of_convolutions_before_a_transformer_are_kept(tmp_path):
    """As in EfficientFormer. Convolutions without blocks, as in XCiT, are no stage."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    stem = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(image)
    convolved = layers.Conv2D(6, 3, padding="same", activation="relu")(stem)
    for has_block, expected in (
        (True, {"intermediate": "first", "ends": ["finer", "norm"]}),
        (False, {"intermediate": "third", "ends": ["first", "second", "third", "norm"]}),
    ):
        x = layers.Add(name="finer")([stem, convolved]) if has_block else convolved
        x = tokens_of(layers.Conv2D(6, 2, 2)(x))
        for name in ("first", "second", "third", "fourth"):
            x = attending(x, name)
        x = layers.LayerNormalization(name="norm")(x)
        model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
        assert suggest_layers(model)["intermediate"] == expected["intermediate"]
        assert suggest_stage_ends(model) == expected["ends"]
        check_same_layers(exported(model, tmp_path), model)


def test_a_class_token_that_joins_the_last_stage_is_no_block(tmp_path):
    """As in CoaT: attention of the stages before is none of this stage."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = attending(tokens_of(layers.Conv2D(6, 2, 2)(image)), "first")
    x = tokens_of(layers.Conv2D(10, 2, 2)(layers.Reshape((8, 8, 6))(x)))
    x = layers.Concatenate(axis=1)([x[:, :1], x])
    x = attending(attending(x, "second"), "third")
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(image, layers.Dense(3)(x[:, 0]))
    assert suggest_layers(model) == {"penultimate": "norm", "intermediate": "second"}
    check_same_layers(exported(model, tmp_path), model)


def test_a_convolution_inside_a_block_is_no_grid_of_its_patches(tmp_path):
    """As in pyramid vision transformers (PVT), whose keys have a coarser grid."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = tokens_of(layers.Conv2D(6, 2, 2)(image))
    for name in ("first", "second", "third", "fourth"):
        x = attending(x, name, tokens_of(layers.Conv2D(6, 4, 4)(layers.Reshape((8, 8, 6))(x))))
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))
    teacher = exported(model, tmp_path)
    images = np.random.default_rng(0).random((2, 16, 16, 3), "float32")
    expected = outputs_at(images, model, "third", "fourth")
    found = outputs_at(images, teacher, "intermediate", "penultimate")
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, other, rtol=1e-3, atol=1e-5)


def test_the_number_of_images_may_be_read_before_the_patches(tmp_path):
    """As PyTorch's older exporter writes a vision transformer."""
    rng = np.random.default_rng(0)
    shapes = {"patch": (5, 3, 4, 4), "first": (5, 5), "second": (5, 5), "fc": (5, 4)}
    arrays = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
    arrays |= {"from": np.array([0]), "to": np.array([1]), "sizes": np.array([5, 6])}
    path = save_graph(
        tmp_path / "a.onnx",
        [
            helper.make_node("Shape", ["image"], ["dims"]),
            helper.make_node("Slice", ["dims", "from", "to"], ["count"]),
            helper.make_node("Conv", ["image", "patch"], ["patches"], strides=[4, 4]),
            helper.make_node("Concat", ["count", "sizes"], ["shape"], axis=0),
            helper.make_node("Reshape", ["patches", "shape"], ["flat"]),
            helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["tokens", "first"], ["y1"]),
            helper.make_node("Add", ["tokens", "y1"], ["sum1"]),
            helper.make_node("MatMul", ["sum1", "second"], ["y2"]),
            helper.make_node("Add", ["sum1", "y2"], ["sum2"]),
            helper.make_node("ReduceMean", ["sum2"], ["pooled"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["pooled", "fc"], ["logits"]),
        ],
        arrays,
        ["N", 3, 8, 12],
    )
    images = rng.normal(size=(2, 8, 12, 3)).astype("float32")
    expected = tensors_of(path, ["sum1", "sum2"], np.moveaxis(images, -1, 1))
    found = outputs_at(images, open_onnx(path), "intermediate", "penultimate")
    for each, other in zip(found, expected, strict=True):
        assert each.shape == (2, 6, 5)
        np.testing.assert_allclose(each, other, rtol=1e-4, atol=1e-5)


def test_tokens_may_be_pooled_by_attention(tmp_path):
    """As in SigLIP: the head has a residual addition of its own, of one token."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = tokens_of(layers.Conv2D(6, 4, 4)(image))
    x = layers.LayerNormalization(name="norm")(attending(attending(x, "first"), "second"))
    probe = layers.GlobalAveragePooling1D(keepdims=True)(x)
    x = attending(0 * probe + 1, "pooled", x)
    model = keras.Model(image, layers.Dense(3)(x[:, 0]))
    teacher = exported(model, tmp_path)
    images = np.random.default_rng(0).random((2, 16, 16, 3), "float32")
    (expected, found) = (
        outputs_at(images, *pair) for pair in ((model, "norm"), (teacher, "penultimate"))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_keys_and_values_of_a_pooling_are_not_the_last_tokens(tmp_path):
    """They have the shape of the tokens."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = tokens_of(layers.Conv2D(6, 4, 4)(image))
    x = layers.LayerNormalization(name="norm")(attending(attending(x, "first"), "second"))
    keys, values = layers.Dense(6)(x), layers.Dense(6)(x)
    scores = layers.Softmax(axis=1)(layers.Dense(1)(keys))
    model = keras.Model(image, layers.Dense(3)(keras.ops.sum(scores * values, axis=1)))
    teacher = exported(model, tmp_path)
    images = np.random.default_rng(0).random((2, 16, 16, 3), "float32")
    (expected, found) = (
        outputs_at(images, *pair) for pair in ((model, "norm"), (teacher, "penultimate"))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_tokens_that_could_be_two_grids_are_none(tmp_path):
    """Nine tokens may be 3 x 3 patches, or 2 x 2 patches after five other tokens."""
    teacher = exported(small_vit(size=8, tokens=5), tmp_path)
    assert [layer.name for layer in teacher.layers] == ["image", "logits"]


@pytest.mark.parametrize("order", ["tokens first", "channels first"])
def test_tokens_may_become_a_feature_map_again(order, tmp_path):
    rng = np.random.default_rng(0)
    first = order == "channels first"
    arrays = {
        "patch": rng.normal(0, 0.3, (6, 3, 4, 4)),
        "tokens": np.array([0, 6, 6]),
        "map": np.array([0, 6, 2, 3] if first else [0, 2, 3, 6]),
        "vector": np.array([0, 6]),
        "fc": rng.normal(0, 0.3, (6, 4)),
    }
    transposed = {"perm": [0, 1, 2] if first else [0, 2, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "patch"], ["patches"], strides=[4, 4]),
        helper.make_node("Reshape", ["patches", "tokens"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["turned"], **transposed),
        helper.make_node("Reshape", ["turned", "map"], ["last"]),
        helper.make_node("ReduceMean", ["last"], ["mean"], axes=[2, 3] if first else [1, 2]),
        helper.make_node("Reshape", ["mean", "vector"], ["pooled"]),
        helper.make_node("MatMul", ["pooled", "fc"], ["logits"]),
    ]
    path = save_graph(tmp_path / "a.onnx", nodes, arrays, ["N", 3, 8, 12])
    images = rng.normal(size=(2, 8, 12, 3)).astype("float32")
    (expected,) = tensors_of(path, ["last"], np.moveaxis(images, -1, 1))
    teacher = open_onnx(path, penultimate_layer="last")
    found = outputs_at(images, teacher, "penultimate")
    assert found.shape == (2, 2, 3, 6)
    expected = np.moveaxis(expected, 1, -1) if first else expected
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
