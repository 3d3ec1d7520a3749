import keras
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_files import residual_network, tensors_of

from letkd_keras.functional import open_onnx
from letkd_keras.layers import ONNXGraph
from letkd_keras.precision import dtype_policy

IMAGES = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")


@pytest.fixture
def file(tmp_path):
    return residual_network(tmp_path / "teacher.onnx")


@pytest.fixture
def half(file, tmp_path):
    """The same network in float16."""
    proto = onnx.load(file)
    for initializer in proto.graph.initializer:
        values = numpy_helper.to_array(initializer).astype("float16")
        initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(proto, tmp_path / "half.onnx")
    return tmp_path / "half.onnx"


@pytest.fixture
def layer(file):
    """The layer from the image to the end of the first stage."""
    return open_onnx(file).get_layer("stage1")


def test_it_is_made_again_from_its_configuration(layer):
    copy = ONNXGraph.from_config(layer.get_config())
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(copy(IMAGES), layer(IMAGES))
    assert (
        copy.compute_output_shape((7, 8, 8, 3))
        == (7, 8, 8, 4)
        == copy(np.zeros((7, 8, 8, 3))).shape
    )


def test_its_configuration_has_all_arguments(layer):
    config = {**layer.get_config(), "batch_size": 2, "data_format": "channels_first"}
    assert ONNXGraph.from_config(config).get_config() == config


def test_weights_that_are_loaded_later_count(file, tmp_path):
    model = open_onnx(file)
    expected = np.asarray(model(IMAGES))
    model.save_weights(tmp_path / "a.weights.h5")
    for layer in model.layers[1:]:
        layer.set_weights([2 * weight for weight in layer.get_weights()])
    assert not np.allclose(model(IMAGES), expected)
    model.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(model(IMAGES), expected)


def test_weights_may_be_read_in_a_compiled_step_of_mixed_precision(half):
    with dtype_policy("mixed_float16"):
        model = open_onnx(half)
        copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    found = copy.predict(IMAGES, verbose=0)
    np.testing.assert_array_equal(found, model.predict(IMAGES, verbose=0))


def test_weights_that_are_set_later_count(layer):
    new = ONNXGraph.from_config(layer.get_config())
    np.testing.assert_array_equal(new(IMAGES), np.zeros((4, 8, 8, 4)))
    before = np.asarray(layer(IMAGES))
    layer.set_weights([2 * weight for weight in layer.get_weights()])
    assert not np.allclose(layer(IMAGES), before)


def test_a_batch_may_be_empty(layer):
    """As one replica's share of the last batch of an epoch may be."""
    assert layer(IMAGES[:0]).shape == (0, 8, 8, 4)


def test_it_computes_in_float32_under_every_policy(layer, file):
    expected = np.asarray(layer(IMAGES))
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        found = open_onnx(file).get_layer("stage1")(IMAGES)
    finally:
        keras.config.set_dtype_policy(policy)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_array_equal(found, expected)


def test_maps_have_the_data_format_of_keras(layer, file):
    expected = np.asarray(layer(IMAGES))
    keras.config.set_image_data_format("channels_first")
    try:
        model = open_onnx(file)
    finally:
        keras.config.set_image_data_format("channels_last")
    found = model.get_layer("stage1")(np.moveaxis(IMAGES, -1, 1))
    np.testing.assert_array_equal(np.moveaxis(np.asarray(found), 1, -1), expected)


def test_no_gradient_passes_through_it(layer):
    tf = pytest.importorskip("tensorflow")
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = tf.reduce_sum(layer(images)) + tf.reduce_sum(images)
    np.testing.assert_array_equal(tape.gradient(loss, images), np.ones_like(IMAGES))


def test_graphs_may_compute_in_half_precision(file, half):
    (expected,) = tensors_of(file, ["logits"], np.moveaxis(IMAGES, -1, 1))
    model = open_onnx(half)
    assert {weight.dtype for weight in model.weights} == {"float16"}
    new = ONNXGraph.from_config(model.layers[1].get_config())
    np.testing.assert_array_equal(new(IMAGES), np.zeros((4, *new.output_shape_of_image)))
    found = model.predict(IMAGES, verbose=0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2 * np.abs(expected).max())
