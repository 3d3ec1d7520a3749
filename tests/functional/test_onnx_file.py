import logging

import keras
import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_files import outputs_at, residual_network, tensors_of

from letkd_keras.functional import fingerprint, load_model, open_onnx, suggest_layers

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


def test_initializers_may_be_declared_as_inputs(file):
    """As in files of 2019 and before."""
    expected = open_onnx(file).predict(IMAGES, verbose=0)
    proto = onnx.load(file)
    proto.graph.input.append(helper.make_tensor_value_info("fc.bias", 1, [5]))
    onnx.save(proto, file)
    np.testing.assert_array_equal(open_onnx(file).predict(IMAGES, verbose=0), expected)


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


def test_an_image_size_that_the_file_leaves_open_is_asked_for(file):
    proto = onnx.load(file)
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "size"
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
    (tmp_path / "text.onnx").write_text("text")
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
    import base64

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
