import base64
import logging

import keras
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_files import outputs_at, residual_network, save_graph, tensors_of

from letkd_keras.functional import fingerprint, load_model, open_onnx, suggest_layers
from letkd_keras.functional.onnx_file import check_no_onnx

IMAGES = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")


@pytest.fixture
def file(tmp_path):
    return residual_network(tmp_path / "teacher.v1.onnx")


def test_logits_and_features_are_those_of_the_graph(file):
    model = open_onnx(file)
    names = ["a2", "b1", "b2", "logits"]
    expected = tensors_of(file, names, np.moveaxis(IMAGES, -1, 1))
    found = outputs_at(IMAGES, model, "stage1", "intermediate", "penultimate", "logits")
    for each, other in zip(found, expected, strict=True):
        if other.ndim == 4:
            other = np.moveaxis(other, 1, -1)
        np.testing.assert_allclose(each, other, rtol=1e-4, atol=1e-5)
    assert model.name == "onnx_teacher.v1"
    assert model.output_shape == (None, 5)  # the softmax is left out
    assert not model.trainable_weights


@pytest.mark.parametrize("name", ["_a", "lehrer für (1)", "教師"])
def test_a_file_may_have_any_name(name, tmp_path):
    model = open_onnx(residual_network(tmp_path / f"{name}.onnx"))
    assert model.predict(IMAGES, verbose=0).shape == (4, 5)


def test_a_keras_file_has_all_of_it(file, tmp_path):
    model = open_onnx(file)
    model.save(tmp_path / "teacher.keras")
    file.unlink()
    loaded = load_model(tmp_path / "teacher.keras")
    np.testing.assert_array_equal(loaded(IMAGES), model(IMAGES))
    assert fingerprint(loaded) == fingerprint(model)


def test_the_fingerprint_depends_on_the_weights(file):
    before = fingerprint(open_onnx(file))
    proto = onnx.load(file)
    bias = next(each for each in proto.graph.initializer if each.name == "fc.bias")
    bias.raw_data = (onnx.numpy_helper.to_array(bias) + 1).tobytes()
    onnx.save(proto, file)
    assert fingerprint(open_onnx(file)) != before


def test_parameters_are_the_initializers(file):
    sizes = [np.prod(each.dims) for each in onnx.load(file).graph.initializer]
    assert open_onnx(file).count_params() == sum(sizes)


def test_each_weight_is_saved_once(file):
    model = open_onnx(file)
    graphs = [base64.b64decode(layer.graph) for layer in model.layers if hasattr(layer, "graph")]
    (bias,) = (weight for weight in model.get_weights() if weight.shape == (5,))
    assert graphs and not any(bias.tobytes() in graph for graph in graphs)


def test_a_network_around_one_of_an_onnx_file_is_recognized(file):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, open_onnx(file)(keras.layers.Rescaling(2.0)(image)))
    with pytest.raises(ValueError, match="`student` must be a network of Keras layers"):
        check_no_onnx(model, "student")


def test_values_outside_of_the_file_are_read(file, tmp_path):
    expected = open_onnx(file).predict(IMAGES, verbose=0)
    onnx.save(
        onnx.load(file),
        tmp_path / "large.onnx",
        save_as_external_data=True,
        location="large.onnx.data",
        size_threshold=0,
    )
    assert (tmp_path / "large.onnx.data").is_file()
    found = open_onnx(tmp_path / "large.onnx").predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("declared", [1, 3])
def test_a_declared_number_of_images_is_ignored_where_the_graph_takes_any(
    declared, tmp_path, caplog
):
    file = residual_network(tmp_path / "a.onnx", batch=declared)
    model = open_onnx(file)
    assert model.get_layer("logits").batch_size is None
    assert model(IMAGES).shape == (4, 5)
    assert not caplog.records


@pytest.mark.parametrize("last", ["Reshape", "ReduceMean"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_graph_that_mixes_more_images_than_are_declared_gets_so_many(batch, last, tmp_path):
    weight = np.random.default_rng(0).normal(size=(3, 4))
    arrays = {"weight": weight, "shape": np.array([batch, -1])}
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
    ]
    if last == "Reshape":
        nodes.append(helper.make_node("Reshape", ["scores", "shape"], ["logits"]))
    else:
        nodes.append(helper.make_node("ReduceMean", ["scores"], ["mean"], axes=[0]))
        nodes.append(helper.make_node("Sub", ["scores", "mean"], ["logits"]))
    file = save_graph(tmp_path / "a.onnx", nodes, arrays, [batch, 3, 8, 8], batch=batch)
    model = open_onnx(file)
    assert model.get_layer("logits").batch_size == batch
    assert model(IMAGES).shape == (4, 4)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_graph_of_a_fixed_number_of_images_runs_in_pieces(batch, tmp_path, caplog):
    expected = open_onnx(residual_network(tmp_path / "any.onnx")).predict(IMAGES, verbose=0)
    with caplog.at_level(logging.WARNING):
        model = open_onnx(residual_network(tmp_path / "a.onnx", batch=batch, head="Reshape"))
    assert f"takes {batch} image(s) at a time" in caplog.text
    assert model.get_layer("logits").batch_size == batch
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, rtol=1e-5, atol=1e-6)


def test_a_transposition_may_reverse_all_axes(file):
    expected = open_onnx(file).predict(IMAGES, verbose=0)
    proto = onnx.load(file)
    proto.graph.node[-2].output[0] = "first"
    for names in (["first", "turned"], ["turned", "logits"]):
        proto.graph.node.insert(
            len(proto.graph.node) - 1, helper.make_node("Transpose", names[:1], names[1:])
        )
    onnx.save(proto, file)
    np.testing.assert_allclose(open_onnx(file).predict(IMAGES, verbose=0), expected, rtol=1e-5)


def test_layers_can_be_named(file):
    model = open_onnx(file, penultimate_layer="b1", intermediate_layer="a1")
    expected = tensors_of(file, ["a1", "b1"], np.moveaxis(IMAGES, -1, 1))
    found = outputs_at(IMAGES, model, "intermediate", "penultimate")
    for each, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(each, np.moveaxis(other, 1, -1), rtol=1e-4, atol=1e-5)


def test_what_precedes_the_logits_is_found(tmp_path):
    expected = open_onnx(residual_network(tmp_path / "a.onnx")).predict(IMAGES, verbose=0)
    file = residual_network(tmp_path / "b.onnx", ending="LogSoftmax")
    proto = onnx.load(file)
    proto.graph.node.append(helper.make_node("Identity", ["output"], ["copy"]))
    proto.graph.output[0].name = "copy"
    onnx.save(proto, file)
    np.testing.assert_array_equal(open_onnx(file).predict(IMAGES, verbose=0), expected)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ([1, 8, 6], (8, 6, 1)),
        ([8, 6, 1], (8, 6, 1)),
        ([4, 8, 6], (8, 6, 4)),
        ([3, 8, 1], (8, 1, 3)),
        (["H", "W", 3], (5, 5, 3)),
        ([3, -1, -1], (5, 5, 3)),
    ],
)
def test_images_have_the_data_format_of_keras(shape, expected, tmp_path):
    nodes = [helper.make_node("Flatten", ["image"], ["logits"])]
    file = save_graph(tmp_path / "a.onnx", nodes, {}, ["N", *shape])
    assert open_onnx(file, image_size=5).input_shape == (None, *expected)


@pytest.mark.parametrize("size", ["size", -1])
def test_an_image_size_that_the_file_leaves_open_is_asked_for(size, file):
    proto = onnx.load(file)
    shape = ["N" if size == "size" else size, 3, size, size]
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", 1, shape))
    onnx.save(proto, file)
    with pytest.raises(
        ValueError, match=r"`teacher` must be .* of a fixed size: .*image_size=\.\.\."
    ):
        load_model(file, "teacher")
    assert open_onnx(file, image_size=12).input_shape == (None, 12, 12, 3)


def test_images_may_be_channels_last(file, tmp_path):
    expected = open_onnx(file).predict(IMAGES, verbose=0)
    proto = onnx.load(file)
    proto.graph.node.insert(
        0, helper.make_node("Transpose", ["pixels"], ["image"], perm=[0, 3, 1, 2])
    )
    proto.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["N", 8, 8, 3])
    )
    onnx.save(proto, file)
    np.testing.assert_allclose(open_onnx(file).predict(IMAGES, verbose=0), expected, rtol=1e-5)


def test_a_graph_without_feature_maps_can_teach_by_its_logits(file):
    proto = onnx.load(file)
    # A late node that reads an early tensor: no part of the graph ends before it.
    proto.graph.node[-2].input[2] = "late"
    proto.graph.node.insert(
        len(proto.graph.node) - 2,
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
    )
    proto.graph.node.insert(
        len(proto.graph.node) - 2, helper.make_node("Squeeze", ["mean"], ["late"])
    )
    onnx.save(proto, file)
    model = open_onnx(file)
    assert [layer.name for layer in model.layers] == ["image", "logits"]
    with pytest.raises(ValueError, match="Name the layers"):
        suggest_layers(model)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("penultimate_layer", "poled", "which the graph does not have. Did you mean pooled?"),
        ("intermediate_layer", "b1.r", "of which later ones depend on others, too"),
        ("penultimate_layer", "image", "which is the image"),
        ("image_size", 0, "`image_size` must be"),
    ],
)
def test_wrong_arguments_are_named(argument, value, message, file):
    with pytest.raises(ValueError, match=rf"`{argument}` must be") as caught:
        open_onnx(file, **{argument: value})
    assert message in str(caught.value)


def test_files_that_are_no_classifiers_are_refused(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`teacher` must be an \.onnx file"):
        load_model(tmp_path / "none.onnx", "teacher")
    for text in ("text", ""):
        (tmp_path / "text.onnx").write_text(text)
        with pytest.raises(ValueError, match="`teacher` must be a complete ONNX file"):
            load_model(tmp_path / "text.onnx", "teacher")
    with pytest.raises(ValueError, match=r"not a sigmoid of '.*a\.onnx'"):
        open_onnx(residual_network(tmp_path / "a.onnx", ending="Sigmoid"))
    proto = onnx.load(file)
    proto.graph.output[0].name = "b2"
    onnx.save(proto, tmp_path / "b.onnx")
    with pytest.raises(ValueError, match=r"logits \[B, classes\] as its first output"):
        open_onnx(tmp_path / "b.onnx")
    proto = onnx.load(file)
    proto.graph.input.append(helper.make_tensor_value_info("second", 1, [1]))
    onnx.save(proto, tmp_path / "c.onnx")
    with pytest.raises(ValueError, match=r"one input\. Received: \['image', 'second'\]"):
        open_onnx(tmp_path / "c.onnx")
    values = np.zeros((1, 3, 8, 8), "float32")
    for name in ("image", "second"):
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(proto, tmp_path / "c.onnx")
    with pytest.raises(ValueError, match=r"one input\. Received: \[\]"):
        open_onnx(tmp_path / "c.onnx")
    mean = helper.make_node("ReduceMean", ["image"], ["logits"], axes=[1, 2, 3], keepdims=0)
    save_graph(tmp_path / "e.onnx", [mean], {}, ["N", 3, 8, 8])
    with pytest.raises(ValueError, match=r"Received: \(\) for an image"):
        open_onnx(tmp_path / "e.onnx")
    proto = onnx.load(file)
    proto.graph.output[0].name = "fc"
    onnx.save(proto, tmp_path / "d.onnx")
    with pytest.raises(ValueError, match="an output that is computed from its input"):
        open_onnx(tmp_path / "d.onnx")


def test_a_tensor_whose_first_axis_is_not_that_of_the_images_is_no_layer(file):
    proto = onnx.load(file)
    relu = next(n for n, node in enumerate(proto.graph.node) if node.output[0] == "stem")
    proto.graph.node[relu].output[0] = "before"
    for name, shape in (("pairs", [-1, 2, 8, 8]), ("stem", [-1, 4, 8, 8])):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape), f"{name}.s"))
    proto.graph.node.insert(relu + 1, helper.make_node("Reshape", ["before", "pairs.s"], ["pairs"]))
    proto.graph.node.insert(relu + 2, helper.make_node("Reshape", ["pairs", "stem.s"], ["stem"]))
    onnx.save(proto, file)
    with pytest.raises(ValueError, match="the first axis of which is not that of the images"):
        open_onnx(file, penultimate_layer="pairs")


def test_what_an_exporter_remarks_is_left_out(file):
    proto = onnx.load(file)
    proto.graph.node[0].doc_string = "remark"
    proto.graph.node[0].metadata_props.add(key="stack", value="/home/somebody/train.py")
    onnx.save(proto, file)
    graphs = [
        base64.b64decode(layer.graph) for layer in open_onnx(file).layers if hasattr(layer, "graph")
    ]
    assert graphs
    assert not any(b"remark" in graph or b"somebody" in graph for graph in graphs)


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-6), ("mixed_float16", 1e-3)])
def test_a_gelu_of_a_model_that_keras_exports(dtype, close, tmp_path):
    """Keras' exporter writes an operator that ONNX does not have."""

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = keras.layers.Conv2D(4, 3, activation="gelu", dtype=dtype)
            self.classifier = keras.layers.Dense(5, activation="gelu")

        def call(self, inputs):
            return self.classifier(keras.ops.mean(self.convolution(inputs), (1, 2)))

    model = Subclassed()
    expected = model(IMAGES)
    path = str(tmp_path / "a.onnx")
    signature = [keras.InputSpec(shape=(None, 8, 8, 3), dtype="float32")]
    model.export(path, format="onnx", verbose=False, input_signature=signature)
    assert any(node.op_type == "Erfc" for node in onnx.load(path).graph.node)
    np.testing.assert_allclose(open_onnx(path)(IMAGES), expected, rtol=1e-4, atol=close)


# === What graphs may have ===


def replaced(proto, output, *nodes, **constants):
    """Put nodes in the place of the one that makes a tensor."""
    number = next(n for n, node in enumerate(proto.graph.node) if output in node.output)
    del proto.graph.node[number]
    for node in reversed(nodes):
        proto.graph.node.insert(number, node)
    for name, values in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(values, name))


def inputs_with_values(proto):
    """As in files of 2019 and before."""
    proto.graph.input.append(helper.make_tensor_value_info("fc.bias", 1, [5]))


def other_outputs(proto):
    proto.graph.node.append(helper.make_node("Flatten", ["stem"], ["features"]))
    proto.graph.output.append(helper.make_tensor_value_info("features", 1, ["N", 256]))


def lists_of_numbers(proto):
    bias = next(each for each in proto.graph.initializer if each.name == "fc.bias")
    bias.CopyFrom(helper.make_tensor("fc.bias", 1, [5], numpy_helper.to_array(bias)))


def sparse_weights(proto):
    bias = next(each for each in proto.graph.initializer if each.name == "fc.bias")
    indices = numpy_helper.from_array(np.arange(5))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(bias, indices, [5]))
    proto.graph.initializer.remove(bias)


def functions(proto):
    opset, own = proto.opset_import[0], helper.make_opsetid("own", 1)
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    proto.functions.append(helper.make_function("own", "ReLU", ["x"], ["y"], relu, [opset]))
    proto.opset_import.append(own)
    replaced(proto, "stem", helper.make_node("ReLU", ["stem.bn"], ["stem"], domain="own"))


def branches(proto):
    kinds = {"then_branch": "Relu", "else_branch": "Identity"}
    graphs = {
        name: helper.make_graph(
            [helper.make_node(kind, ["stem.bn"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, 1, None)],
        )
        for name, kind in kinds.items()
    }
    node = helper.make_node("If", ["condition"], ["stem"], **graphs)
    replaced(proto, "stem", node, condition=np.array(True))


def arguments_that_are_left_out(proto):
    replaced(
        proto,
        "stem",
        helper.make_node("Dropout", ["stem.bn"], ["dropped", ""]),
        helper.make_node("Relu", ["dropped"], ["stem"]),
    )
    replaced(
        proto,
        "flat",
        helper.make_node("Clip", ["pooled", "", "most"], ["clipped"]),
        helper.make_node("Flatten", ["clipped"], ["flat"]),
        most=np.float32(1e6),
    )


@pytest.mark.parametrize(
    "change",
    [
        inputs_with_values,
        other_outputs,
        lists_of_numbers,
        sparse_weights,
        functions,
        branches,
        arguments_that_are_left_out,
    ],
)
def test_graphs_may_have(change, file):
    (expected,) = tensors_of(file, ["logits"], np.moveaxis(IMAGES, -1, 1))
    proto = onnx.load(file)
    change(proto)
    onnx.save(proto, file)
    model = open_onnx(file)
    names = [layer.name for layer in model.layers]
    assert names == ["image", "stage1", "intermediate", "stage2", "penultimate", "logits"]
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), expected, rtol=1e-4, atol=1e-5)


def test_the_size_of_the_image_may_be_read(file):
    """Where the whole shape is read, parts of the graph cannot have it from their own inputs."""
    (expected,) = tensors_of(file, ["logits"], np.moveaxis(IMAGES, -1, 1))
    proto = onnx.load(file)
    proto.graph.node[-2].output[0] = "before"
    replaced(
        proto,
        "output",
        helper.make_node("Shape", ["image"], ["shape"], start=0, end=4),
        helper.make_node("Gather", ["shape", "axis"], ["height"]),
        helper.make_node("Cast", ["height"], ["factor"], to=1),
        helper.make_node("Mul", ["before", "factor"], ["output"]),
        axis=np.array(2),
    )
    onnx.save(proto, file)
    found = open_onnx(file).predict(IMAGES, verbose=0)
    np.testing.assert_allclose(found, 8 * expected, rtol=1e-4, atol=1e-4)


def test_gray_images_may_become_channels_first_by_a_reshape(file):
    """As tf2onnx writes it."""
    weight = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype("float32")
    proto = onnx.load(file)
    replaced(
        proto,
        "stem.bn.conv",
        helper.make_node("Reshape", ["pixels", "shape"], ["image"]),
        helper.make_node("Conv", ["image", "gray"], ["stem.bn.conv"], pads=[1] * 4),
        shape=np.array([-1, 1, 8, 8]),
        gray=weight,
    )
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", 1, ["N", 8, 8, 1]))
    onnx.save(proto, file)
    model = open_onnx(file)
    shapes = [model.get_layer(name).output.shape for name in ("stage1", "penultimate")]
    assert shapes == [(None, 8, 8, 4), (None, 4, 4, 6)]
