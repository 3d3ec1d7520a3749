import importlib.util
import re

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from random_students import trained_looking, with_kd_layers

from letkd_keras import KDLayer, insert_kd_layers
from letkd_keras.export import ExportOptions, export_bundle, export_student, formats
from letkd_keras.export.__main__ import main
from letkd_keras.export.artifact_verification import verify_artifacts
from letkd_keras.export.comparison import Comparison, ExportMismatch
from letkd_keras.export.formats.tflite import _with_constant_shapes, _with_full_range
from letkd_keras.export.inverse_rms import (
    InverseRMS,
    with_calibrated_floors,
    with_float16_floors,
)
from letkd_keras.layers.channel_shuffle import ChannelShuffle, ChannelSplit
from letkd_keras.precision import dtype_policy

_RNG = np.random.default_rng(3)


def _weight_types(path):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    return {np.dtype(tensor["dtype"]).name for tensor in interpreter.get_tensor_details()}


def _bytes(student, tmp_path, name, images, **options):
    # Random weights on noise: the order of the logits is not asked for, see `export_student`.
    return export_student(student, tmp_path, name, images=images, min_agreement=0, **options)


def test_quantized_files_are_smaller_and_quantized(images, tmp_path):
    student = with_kd_layers("resnet8", templates=(512, 64))
    float32 = _bytes(student, tmp_path, "tflite", images).bytes
    float16 = _bytes(student, tmp_path, "tflite-float16", images)
    dynamic = _bytes(student, tmp_path, "tflite-dynamic", images)
    int8 = _bytes(student, tmp_path, "tflite-int8", images, calibration=images)
    assert float16.bytes < 0.6 * float32
    assert "float16" in _weight_types(float16.path)
    assert max(dynamic.bytes, int8.bytes) < 0.45 * float32
    assert "int8" in _weight_types(dynamic.path)
    # Only the two ends are float32.
    interpreter = Interpreter(str(int8.path))
    interpreter.allocate_tensors()
    floats = [t["name"] for t in interpreter.get_tensor_details() if t["dtype"] == np.float32]
    assert len(floats) == 2
    scale = np.abs(np.asarray(student(images))).max()
    assert float16.max_difference < 2e-3 * scale
    assert int8.max_difference < 0.25 * scale


def test_int8_at_both_ends(student, images, tmp_path):
    result = _bytes(student, tmp_path, "tflite-int8", images, calibration=images, integer_io=True)
    interpreter = Interpreter(str(result.path))
    for details in (interpreter.get_input_details(), interpreter.get_output_details()):
        assert details[0]["dtype"] == np.int8
    assert _weight_types(result.path) <= {"int8", "int32"}


def test_int8_without_calibration_images(student, tmp_path):
    with pytest.raises(ValueError, match="`calibration` must be given for this format"):
        export_student(tmp_path / "absent.keras", tmp_path, "tflite-int8")
    with pytest.raises(ValueError, match=r"`calibration` must be of the shape"):
        export_student(student, tmp_path, "tflite-int8", calibration=np.zeros((4, 8, 8, 3)))
    assert list(tmp_path.iterdir()) == []


def test_disagreement_on_images_is_refused(student, images, tmp_path):
    noise = 40 * images
    with pytest.raises(ExportMismatch, match="agrees with the student on less than 99"):
        # Calibrated on images forty times fainter, the ranges do not fit.
        export_student(
            student,
            tmp_path,
            "tflite-int8",
            images=noise,
            calibration=images / 40,
            min_agreement=0.995,
        )
    assert list(tmp_path.iterdir()) == []


def test_floors_leave_images_as_they_are_and_keep_zeros_in_range():
    inputs = keras.Input((2, 2, 4))
    inverse = InverseRMS()(inputs)
    model = keras.Model(inputs, keras.layers.Multiply()([inputs, inverse]))
    images = _RNG.uniform(1, 2, (50, 2, 2, 4)).astype("float32")
    images[:10, 0] = 0
    calibrated = with_calibrated_floors(model, images)
    floor = calibrated.layers[1].floor
    assert 1 < floor < 2  # of about 2.3 on average, of 1 at the least
    np.testing.assert_array_equal(calibrated(np.zeros((1, 2, 2, 4))), 0)
    plain, changed = (np.asarray(m(images)) for m in (model, calibrated))
    assert np.mean(np.any(plain != changed, axis=-1)) <= 0.011
    assert model.layers[1].floor == 1e-12


def test_float16_of_locations_without_responses_is_finite(images, tmp_path):
    student = with_kd_layers("resnet8")
    for layer in student.layers:
        if isinstance(layer, KDLayer):
            layer.batch_normalization.beta.assign(np.full(layer.templates, -100.0))
    # The default floor is 0 in float16: its factor would be infinite.
    result = export_student(student, tmp_path, "tflite-float16", images=images)
    assert result.max_difference < 0.02 * result.scale


def test_a_floor_is_a_quantile_of_the_mean_squares():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, InverseRMS(name="inverse")(inputs))
    images = np.zeros((202, 3), "float32")
    images[1:] = np.sqrt(np.arange(100, 301))[:, None]  # mean squares 100, 101, ..., 300
    floor = with_calibrated_floors(model, images).get_layer("inverse").floor
    assert floor == pytest.approx(102, rel=1e-4)  # a hundredth of the way
    # Without any it stays.
    assert with_calibrated_floors(model, images[:1]).get_layer("inverse").floor == 1e-12
    plain = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    assert with_calibrated_floors(plain, images) is plain
    assert with_float16_floors(plain) is plain


def test_floors_of_float16_do_not_lower_those_that_are_higher():
    inputs = keras.Input((2, 3))
    x = InverseRMS(axis=1, floor=0.25, name="high")(inputs)
    model = keras.Model(inputs, InverseRMS(name="low")(x))
    changed = with_float16_floors(model)
    assert changed.get_layer("high").floor == 0.25
    assert changed.get_layer("high").axis == 1
    # The smallest normal number of float16.
    assert changed.get_layer("low").floor == 2**-14


def test_one_calibration_image_has_black_and_white_corners():
    images = np.full((2, 3, 4, 1), 100.0, "float32")
    wide = _with_full_range(images, ExportOptions(input="pixels"))
    assert (images == 100).all()  # others use them, too
    assert (wide[0, 0, 0, 0], wide[0, -1, -1, 0]) == (0, 255)
    assert (wide != 100).sum() == 2
    assert _with_full_range(images, ExportOptions(input="normalized")) is images


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([keras.layers.Flatten(data_format="channels_first")], (2, 3, 4)),
        ([keras.layers.Reshape((-1, 4))], (None, None, 4)),
        ([keras.layers.Reshape((6, 4)), keras.layers.Flatten()], (2, 3, 4)),
    ],
)
def test_reshapes_without_the_number_of_images_do_the_same(layers, shape):
    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer.from_config(layer.get_config())(x)
    model = keras.Model(inputs, keras.layers.Activation("relu")(x))
    images = _RNG.standard_normal((5, 2, 3, 4)).astype("float32")
    changed = _with_constant_shapes(model)
    np.testing.assert_array_equal(changed(images), model(images))


@pytest.mark.parametrize("floor", [0, float("inf"), "a"])
def test_floors_are_positive_numbers(floor):
    with pytest.raises(ValueError, match="`floor` must be a finite number"):
        InverseRMS(floor=floor)


def test_onnx_states_opset_batch_and_layout(student, images, tmp_path):
    path = export_student(student, tmp_path, "onnx", images=images, opset=14).path
    model = onnx.load(path)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 14
    (image,), (logits,) = model.graph.input, model.graph.output
    dims = lambda tensor: [d.dim_param or d.dim_value for d in tensor.type.tensor_type.shape.dim]  # noqa: E731
    assert (image.name, dims(image)) == ("image", ["batch", 16, 16, 3])
    assert (logits.name, dims(logits)) == ("logits", ["batch", 5])


@pytest.mark.parametrize("channels_first", [False, True])
def test_onnx_names_open_sides(images, tmp_path, channels_first):
    inputs = keras.Input((None, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    student = keras.Model(inputs, keras.layers.Dense(3)(x))
    result = export_student(student, tmp_path, "onnx", images=images, channels_first=channels_first)
    (image,) = onnx.load(result.path).graph.input
    dims = [side.dim_param or side.dim_value for side in image.type.tensor_type.shape.dim]
    assert dims == ["batch", *([3, "height", 16] if channels_first else ["height", 16, 3])]


def test_onnx_channels_first_has_no_transpose_at_its_borders(student, images, tmp_path):
    path = export_student(student, tmp_path, "onnx", images=images, channels_first=True).path
    model = onnx.load(path)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]] == [3, 16, 16]
    ends = [
        node.op_type
        for node in model.graph.node
        if "image" in node.input or "logits" in node.output
    ]
    assert "Transpose" not in ends


def test_onnx_has_what_the_converter_lacks(images, tmp_path):
    # GELU is computed by erfc, a grouped convolution is compiled, a normalization keeps tensors.
    convolution = keras.layers.Conv2D(4, 3, activation="gelu", groups=2, padding="same")
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(inputs)
    x = convolution(convolution(keras.layers.Conv2D(4, 3)(x)))
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    result = export_student(keras.Model(inputs, x), tmp_path, "onnx", images=images)
    assert result.max_difference < 1e-5
    assert [tensor.name for tensor in onnx.load(result.path).graph.input] == ["image"]


@pytest.mark.parametrize("format", ["tflite", "tflite-int8"])
def test_tflite_computes_no_shapes(format, images, tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(inputs)
    x = keras.layers.MaxPooling1D(2)(keras.layers.Reshape((64, 4))(x))
    student = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    file = export_student(student, tmp_path, format, images=images, calibration=images).path
    interpreter = Interpreter(str(file))
    operators = {row["op_name"] for row in interpreter._get_ops_details()}
    assert "RESHAPE" in operators
    assert not operators & {"SHAPE", "STRIDED_SLICE", "PACK"}
    run = interpreter.get_signature_runner("serving_default")
    batch, single = run(image=images)["logits"], run(image=images[:1])["logits"]
    np.testing.assert_allclose(batch[:1], single, atol=1e-6)


def test_tflite_keeps_names_that_keras_gives_reshapes(images, tmp_path):
    inputs = keras.Input((16, 16, 3), name="picture")
    halves = keras.layers.Cropping2D((0, 4), name="reshape")(inputs), inputs[:, :, ::2]
    shared = keras.layers.Reshape((8, -1), name="image")
    parts = [keras.layers.Activation("relu", name="flatten")(shared(half)) for half in halves[:1]]
    x = keras.layers.Concatenate(name="reshape_1")([*parts, shared(halves[1])])
    student = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten(name="row")(x)))
    keras.utils.clear_session()  # Keras counts names anew in each process
    export_student(student, tmp_path, "tflite", images=images)


def test_onnx_has_no_transpose_where_a_number_is_added(images, tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, activation="hard_silu")(inputs)
    squeezed = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    squeezed = keras.layers.Conv2D(4, 1, use_bias=False)(squeezed)
    x = keras.layers.Multiply()([x, keras.layers.Activation("hard_sigmoid")(squeezed)])
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
    student = keras.Model(inputs, keras.layers.Dense(5)(x))
    path = export_student(student, tmp_path, "onnx", images=images, channels_first=True).path
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("Conv") == 3
    assert "Transpose" not in operators


def test_onnx_shuffles_channels_by_one_transpose(tmp_path):
    inputs = keras.Input((8, 8, 6))
    x = keras.layers.Conv2D(12, 1, activation="relu")(inputs)
    x = ChannelShuffle(3)(x)
    kept, x = ChannelSplit()(x)
    x = keras.layers.Conv2D(6, 3, padding="same")(x)
    x = ChannelShuffle(2)(keras.layers.Concatenate()([kept, x]))
    x = keras.layers.Conv2D(6, 3)(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    path = export_student(model, tmp_path, "onnx", channels_first=True).path
    transposes = [n for n in onnx.load(path).graph.node if n.op_type == "Transpose"]
    assert [len(n.attribute[0].ints) for n in transposes] == [5, 5]


def test_onnx_may_shuffle_channels_twice_by_one_layer(images, tmp_path):
    inputs = keras.Input((16, 16, 3))
    shuffle, split = ChannelShuffle(2), ChannelSplit()
    x = keras.layers.Conv2D(8, 3)(inputs)
    for _ in range(2):
        first, second = split(shuffle(x))
        x = keras.layers.Concatenate()([keras.layers.Conv2D(4, 1)(first), second])
    x = keras.layers.Permute((3, 1, 2))(x)
    x = ChannelShuffle(4, data_format="channels_first")(x)
    x = keras.layers.Dense(3)(keras.layers.Flatten()(x))
    with dtype_policy("mixed_float16"):  # of no layer that is added
        result = export_student(keras.Model(inputs, x), tmp_path, "onnx", images=images)
    assert result.max_difference < 1e-5 * result.scale
    assert "Cast" not in {node.op_type for node in onnx.load(result.path).graph.node}


def test_savedmodel_classifies_raw_images(student, tmp_path):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    names = ("ant", "bee", "cat", "dog", "eel")
    path = export_student(student, tmp_path, mean=mean, std=std, class_names=names).path
    pixels = _RNG.integers(0, 256, (3, 16, 16, 3), "uint8")
    outputs = tf.saved_model.load(path).signatures["classify"](image=tf.constant(pixels))
    normalized = (pixels / 255 - np.array(mean)) / np.array(std)
    logits = np.asarray(student(normalized.astype("float32")))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    chosen = [name.decode() for name in outputs["class_name"].numpy()]
    assert chosen == [names[i] for i in logits.argmax(-1)]


def test_a_wrong_endpoint_for_raw_images_is_refused(student, tmp_path, monkeypatch):
    def reload(artifact, images):
        probabilities = np.full((len(images["classify"]), 5), 0.2, "float32")
        return {"savedmodel": np.asarray(student(images["savedmodel"])), "classify": probabilities}

    monkeypatch.setattr("letkd_keras.export.artifact.reload_in_one_process", reload)
    with pytest.raises(ExportMismatch, match=r"`classify` of .* differs from the student's"):
        export_student(student, tmp_path, mean=0.5, std=0.25, input="normalized")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"input": "bgr"}, "`input` must be one of None, pixels, normalized"),
        ({"input": "pixels"}, "`mean` and `std` must be given for `input` 'pixels'"),
        ({"output": "scores"}, "`output` must be one of logits, probabilities"),
        ({"crop": 1.5}, r"`crop` must be in \(0, 1\]"),
        ({"mean": (0.5,) * 3, "std": (1.0,) * 3}, "`images` must be uint8, or normalized with"),
        ({"mean": (0.5, 0.5, 0.5)}, "`mean` and `std` must be given together"),
        ({"mean": (0.5,), "std": (0.0,)}, "`std` must be positive"),
        ({"mean": (0.5, 0.5), "std": (1.0, 1.0)}, "`mean` must be one finite number, or one for"),
        ({"mean": 0.5, "std": (1.0, 1.0)}, "`std` must be .* each of the 3 channels"),
        ({"mean": float("nan"), "std": 1.0}, "`mean` must be one finite number"),
        ({"mean": "grey", "std": 1.0}, "`mean` must be one finite number.*mean='grey'"),
        ({"mean": [(0.5,) * 3], "std": 1.0}, "`mean` must be one finite number"),
        ({"class_names": ("one", "two")}, "`class_names` must name the 5 classes"),
        ({"opset": 7}, "`opset` must be an integer from 13 to 18"),
        (
            {"images": tf.data.Dataset.range(6).batch(2)},
            r"`images` must be an array; .* Received: a _BatchDataset$",
        ),
        ({"labels": (1, 2)}, "`labels` must be one class for each"),
        ({"labels": (0, 1, 2, 3, 4, 5)}, "`labels` must be integers from 0 to 4"),
        ({"labels": (0, 1, 2, 3, 4, 0.5)}, "`labels` must be integers from 0 to 4"),
        ({"labels": list("abcdea")}, "`labels` must be integers from 0 to 4.*of type <U1"),
        (
            {"images": np.zeros((0, 16, 16, 3))},
            "`images` must be of the shape that the model takes",
        ),
    ],
)
def test_options_that_do_not_fit(student, images, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        export_student(student, tmp_path, **{"images": images, **options})


@pytest.fixture
def without(monkeypatch):
    """Makes packages look as if they were not installed."""
    installed = importlib.util.find_spec

    def hide(*names):
        hidden = lambda name: None if name in names else installed(name)  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", hidden)

    return hide


@pytest.mark.parametrize(
    ("name", "packages", "needed", "extras"),
    [
        ("tflite", ["ai_edge_litert"], "ai-edge-litert", "export"),
        ("tflite-int8", ["ai_edge_litert"], "ai-edge-litert", "export"),
        ("onnx", ["onnxruntime"], "onnxruntime", "export"),
        ("onnx", ["onnx", "tf2onnx"], "tf2onnx, onnx", "export"),
        ("tflite-pruned", ["tf_keras"], "tf-keras", "export"),
        (
            *("tflite-int4", ["litert_quantizer", "ai_edge_litert"]),
            *("litert-quantizer, ai-edge-litert", "export,quantize"),
        ),
    ],
)
def test_packages_are_looked_for_before_the_model_is_loaded(
    without, tmp_path, name, packages, needed, extras
):
    without(*packages)
    message = f"The format {name} needs {needed}: pip install 'letkd-keras[{extras}]'"
    with pytest.raises(ImportError, match=re.escape(message)):
        export_student(tmp_path / "absent.keras", tmp_path, name)
    with pytest.raises(ImportError, match=re.escape(message)):
        export_bundle(tmp_path / "absent.keras", tmp_path, ("savedmodel", name))
    assert list(tmp_path.iterdir()) == []
    formats.check_installed(["savedmodel"])


@pytest.mark.parametrize("name", ["savedmodel", "tflite", "onnx"])
def test_tensorflow_is_looked_for_before_anything_else(without, tmp_path, name):
    without("tensorflow", "ai_edge_litert", "tf2onnx")
    message = r"Export needs TensorFlow.*student\.save.*python -m letkd_keras\.export"
    model, out = tmp_path / "absent.keras", tmp_path / "out"
    with pytest.raises(ImportError, match=message):
        export_student(model, out, name)
    with pytest.raises(ImportError, match=message):
        export_bundle(model, out, (name,))
    with pytest.raises(ImportError, match=message):
        main([str(model), "--formats", name, "--out", str(out)])
    assert list(tmp_path.iterdir()) == []


def test_another_backend_is_refused_before_the_model_is_loaded(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    model, out = tmp_path / "absent.keras", tmp_path / "out"
    message = r"^Export needs the TensorFlow backend .*\. Received: KERAS_BACKEND=jax$"
    with pytest.raises(ValueError, match=message):
        export_bundle(model, out, ("tflite",))
    with pytest.raises(ValueError, match=message):
        main([str(model), "--formats", "tflite", "--out", str(out)])
    assert list(tmp_path.iterdir()) == []
    formats.check_installed(["tflite"], to_write=False)


def test_an_unknown_format_is_refused_and_each_is_written_once():
    with pytest.raises(ValueError, match=r"`format` must be one of savedmodel, .*'tfllite'"):
        formats.check_installed(["tfllite"])
    assert formats.expand(["onnx", "tflite", "onnx"]) == ["onnx", "tflite"]
    for given in ("tflite", [], ()):
        with pytest.raises(ValueError, match="`formats` must be a list of names of formats"):
            formats.expand(given)


def test_calibration_images_must_be_some():
    formats.check_calibration(["tflite", "onnx"], None)
    for images in (None, [], np.zeros((0, 4, 4, 3))):
        with pytest.raises(ValueError, match="`calibration` must be given for this format"):
            formats.check_calibration(["tflite", "tflite-int8"], images)


def test_verifying_needs_what_runs_a_format_only(without):
    without("tensorflow", "tf2onnx", "litert_quantizer", "tf_keras")
    formats.check_installed(formats.names(), to_write=False)
    without("tf2onnx", "litert_quantizer", "tf_keras")
    with pytest.raises(ImportError, match="The format onnx needs tf2onnx"):
        formats.check_installed(["onnx"])


def test_verifying_without_what_runs_a_format(student, tmp_path, without):
    export_bundle(student, tmp_path, ("tflite",))
    without("tensorflow")  # as far as the check knows; a format is not written
    assert verify_artifacts(tmp_path, student)["tflite"].agreement == 1
    without("ai_edge_litert")
    with pytest.raises(ImportError, match="The format tflite needs ai-edge-litert"):
        verify_artifacts(tmp_path, student)


def test_accuracy_before_and_after(student, images, tmp_path):
    labels = np.asarray(student(images)).argmax(-1)
    labels[:2] = (labels[:2] + 1) % 5
    result = export_student(student, tmp_path, "tflite", images=images, labels=labels)
    assert result.accuracy_before == result.accuracy == pytest.approx(4 / 6)


def _applications_student():
    student = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), weights=None, classes=5, alpha=0.35
    )
    model = insert_kd_layers(
        student,
        KDLayer(24, name="kd_penultimate"),
        KDLayer(16, name="kd_intermediate"),
        penultimate_layer="out_relu",
        intermediate_layer="block_14_add",
    )
    return trained_looking(model)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet20", "snv1", "snv2", "mnv2", "applications"])
def test_every_network_in_every_format_passes_verify(network, tmp_path):
    applications = network == "applications"
    model = _applications_student() if applications else with_kd_layers(network, size=32)
    images = _RNG.standard_normal((40, 32, 32, 3)).astype("float32")
    # Of random weights on noise the order of the logits is not asked for, see `export_student`.
    every = formats.expand(["all"])
    quantized = [name for name in every if formats.find(name).min_agreement < 1]
    export_bundle(
        model,
        tmp_path,
        every,
        images=images,
        calibration=images,
        epochs=1,
        verify={name: {"min_agreement": 0} for name in quantized},
    )
    results = verify_artifacts(tmp_path, model, images=images)
    assert list(results) == every
    for name, result in results.items():
        assert isinstance(result, Comparison), result
        if name not in quantized:
            assert result.agreement == 1
            assert result.max_difference <= 1e-4 * result.scale
