import importlib.util
import os
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from random_students import trained_looking, with_kd_layers

from letkd_keras import KDLayer, insert_kd_layers
from letkd_keras.export import ExportOptions, export_student, fold
from letkd_keras.export.input_scaling import with_pixel_input
from letkd_keras.export.tfmot import compression
from letkd_keras.export.tfmot.bridge import import_tfmot, to_tf_keras
from letkd_keras.layers.channel_shuffle import ChannelShuffle
from letkd_keras.layers.grouped_convolution import GroupedConv2D

# Looked for, not imported: `import_tfmot` knows in which order and what to put back.
if importlib.util.find_spec("tensorflow_model_optimization") is None:
    pytest.skip("tensorflow-model-optimization is not installed", allow_module_level=True)


def _tensors(path):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    for details in interpreter.get_tensor_details():
        try:
            yield details, interpreter.get_tensor(details["index"])
        except ValueError:  # not a constant
            continue


def _kernels(path):
    return [
        value
        for details, value in _tensors(path)
        if value.ndim in (2, 4)
        and value.dtype == np.float32
        and value.size > 200
        and "image" not in details["name"]
    ]


def test_importing_tfmot_leaves_no_trace_in_the_environment(monkeypatch):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    import_tfmot()
    assert "TF_USE_LEGACY_KERAS" not in os.environ


@pytest.mark.parametrize("before", [None, "0"])
def test_the_environment_is_as_before_the_first_import_of_tfmot(before, monkeypatch, tmp_path):
    name = "tensorflow_model_optimization"
    (tmp_path / f"{name}.py").write_text("import os\nos.environ['TF_USE_LEGACY_KERAS'] = '1'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "keras_cv", None)  # not looked for here
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    if before is None:
        monkeypatch.delenv("TF_USE_LEGACY_KERAS")
    import_tfmot()
    assert os.environ.get("TF_USE_LEGACY_KERAS") == before


@pytest.mark.parametrize(
    "name",
    ["resnet8", "snv1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("snv2", "mnv2"))],
)
def test_tf_keras_computes_the_same(name):
    folded = fold(with_kd_layers(name, size=32))
    images = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype("float32")
    expected, rebuilt = np.asarray(folded(images)), to_tf_keras(folded)(images).numpy()
    np.testing.assert_allclose(rebuilt, expected, atol=1e-5 * np.abs(expected).max())


class _OwnNormalization(keras.layers.BatchNormalization):
    pass


@pytest.mark.parametrize("kind", [keras.layers.GlobalMaxPooling2D, _OwnNormalization])
def test_layer_without_a_counterpart_is_named(kind):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, kind(name="strange")(inputs))
    with pytest.raises(ValueError, match=f"no counterpart of 'strange', a {kind.__name__}"):
        to_tf_keras(model)


def _with_hard_activations():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.Activation("hard_silu")(x)
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    # The squeeze-and-excitation of keras.applications' MobileNetV3.
    gate = keras.layers.ReLU(6.0)(keras.layers.Conv2D(8, 1)(gate) + 3.0) * (1.0 / 6.0)
    x = keras.layers.Multiply()([x, gate])
    x = keras.layers.Activation("hard_sigmoid")(keras.layers.Conv2D(8, 1, activation="silu")(x))
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    return trained_looking(keras.Model(inputs, outputs))


def test_tf_keras_has_the_activations_of_mobilenet_v3():
    model = _with_hard_activations()
    images = 3 * np.random.default_rng(0).standard_normal((5, 8, 8, 3)).astype("float32")
    rebuilt = to_tf_keras(model)(images).numpy()
    np.testing.assert_allclose(rebuilt, np.asarray(model(images)), atol=1e-5)


def test_counterparts_have_the_options_of_their_layers():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 9, 4))
    layers = keras.layers
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, dilation_rate=2)(inputs)
    x = layers.BatchNormalization(epsilon=0.5, center=False, scale=False)(x)
    x = layers.ReLU(max_value=1.5, negative_slope=0.25, threshold=0.125)(x)
    x = layers.Conv2D(6, 2, groups=2, strides=2, padding="same", activation="silu")(x)
    shared = layers.Conv2D(6, 1, use_bias=False, name="shared")
    x = GroupedConv2D(4, 2, groups=2)(layers.Concatenate(axis=2)([shared(x), shared(-1.0 * x)]))
    x = layers.Conv2D(3, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    model = trained_looking(keras.Model(inputs, layers.Flatten()(x)))
    images = np.random.default_rng(0).standard_normal((3, 9, 9, 4)).astype("float32")
    rebuilt = to_tf_keras(model)
    expected = np.asarray(model(images, training=False))
    np.testing.assert_allclose(rebuilt(images), expected, rtol=1e-4, atol=1e-5)


def test_only_the_scaling_of_pixels_and_batch_normalizations_are_frozen():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.DepthwiseConv2D(3, name="frozen")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn")(x))
    x = keras.layers.Dense(4, name="head")(keras.layers.GlobalAveragePooling2D()(x))
    student = keras.Model(inputs, x)
    student.get_layer("frozen").trainable = False
    rebuilt = to_tf_keras(with_pixel_input(student, 0.5, 0.25))
    trained = {layer.name: layer.trainable for layer in rebuilt.layers if layer.weights}
    assert trained == {"pixel_scaling": False, "frozen": True, "bn": False, "head": True}


def test_a_shuffle_of_the_first_axis_has_no_counterpart():
    inputs = keras.Input((4, 5, 5))
    model = keras.Model(inputs, ChannelShuffle(2, data_format="channels_first")(inputs))
    with pytest.raises(ValueError, match=r"^`data_format` must be 'channels_last' here"):
        to_tf_keras(model)


@pytest.mark.parametrize("invert", [False, True])
def test_tf_keras_normalizes_as_an_adapted_layer(invert):
    images = np.random.default_rng(0).uniform(0, 255, (5, 4, 4, 3)).astype("float32")
    layer = keras.layers.Normalization(invert=invert)
    layer.adapt(images * np.array([1, 0.5, 0]) + 3)  # the last channel is constant
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(layer(inputs)))
    np.testing.assert_allclose(to_tf_keras(model)(images), model(images), rtol=1e-5)


@keras.saving.register_keras_serializable("tests")
def _cube(x):
    return x * x * x


@pytest.mark.parametrize("activation", ["leaky_relu", _cube])
@pytest.mark.parametrize("layer", ["Activation", "Conv2D"])
def test_activation_without_a_counterpart_is_named(layer, activation):
    _check_activation_is_named(layer, activation)


def test_a_hard_activation_inside_a_convolution_is_named():
    # As a layer of its own it has a counterpart.
    _check_activation_is_named("Conv2D", "hard_silu")


def _check_activation_is_named(layer, activation):
    inputs = keras.Input((4, 4, 3))
    options = {"activation": activation, "name": "strange"}
    strange = {
        "Activation": keras.layers.Activation(**options),
        "Conv2D": keras.layers.Conv2D(3, 1, **options),
    }[layer]
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(strange(inputs)))
    name = "_cube" if activation is _cube else activation
    with pytest.raises(ValueError, match=f"Received: .*{name}'.* of 'strange'"):
        to_tf_keras(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tflite-qat", "tflite-pruned", "tflite-clustered"])
def test_mobilenet_v3_is_trained_further(tmp_path, name):
    student = keras.applications.MobileNetV3Small(
        input_shape=(32, 32, 3), weights=None, classes=5, alpha=0.35
    )
    # Names of layers have numbers that depend on earlier models.
    activations = [layer for layer in student.layers if isinstance(layer, keras.layers.Activation)]
    model = insert_kd_layers(
        student,
        KDLayer(24, name="kd_penultimate"),
        KDLayer(16, name="kd_intermediate"),
        penultimate_layer=activations[17].name,
        intermediate_layer="expanded_conv_8_project_bn",
    )
    pixels = np.random.default_rng(4).integers(0, 256, (32, 32, 32, 3), "uint8")
    given = {"images": pixels, "calibration": pixels, "min_agreement": 0, "epochs": 1}
    assert export_student(model, tmp_path, name, **given).path.exists()


def _export(student, tmp_path, name, images, **options):
    calibration = np.random.default_rng(4).standard_normal((64, 16, 16, 3)).astype("float32")
    given = {"images": images, "calibration": calibration, "min_agreement": 0, "epochs": 1}
    return export_student(student, tmp_path, name, **given, **options)


@pytest.mark.slow
def test_quantization_aware_training_gives_an_int8_file(student, images, tmp_path):
    result = _export(student, tmp_path, "tflite-qat", images)
    types = {np.dtype(details["dtype"]).name for details, _ in _tensors(result.path)}
    assert "int8" in types
    assert not _kernels(result.path)
    scale = np.abs(np.asarray(student(images))).max()
    assert result.max_difference < 0.25 * scale


def test_ranges_start_at_those_of_the_images(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    student = trained_looking(keras.Model(inputs, keras.layers.Dense(4, name="logits")(x)))
    dense = student.get_layer("logits")
    dense.kernel.assign(100 * dense.kernel)
    pixels = np.random.default_rng(4).integers(0, 256, (64, 8, 8, 3), "uint8")
    given = {"images": pixels, "calibration": pixels, "mean": 0.5, "std": 0.25}
    options = {"epochs": 1, "learning_rate": 1e-6, "min_agreement": 0}
    result = export_student(student, tmp_path, "tflite-qat", **given, **options)
    assert result.scale > 50
    # tfmot would start at ranges of [-6, 6], that of the pixels included.
    assert result.max_difference < 0.05 * result.scale


class _Variable:
    def __init__(self, value):
        self.value = value

    def ref(self):
        return self

    deref = ref

    def assign(self, value):
        self.value = value


class _Quantizer:
    def __call__(self, results, training, weights):
        raise AssertionError("the range of tfmot would move")


def test_ranges_are_those_of_all_batches():
    quantizer, trainings = _Quantizer(), []
    ranges = [
        {"min_var": _Variable(low), "max_var": _Variable(high)}
        for low, high in ((-6.0, 6.0), (-7.0, 7.0), (-8.0, 8.0))
    ]

    def model(images, training):
        trainings.append(training)
        for factor, weights in zip((1, 0, abs(images)), ranges, strict=True):
            quantizer(factor * images, training=training, weights=weights)

    images = np.zeros(70, "float32")
    images[[3, 40, 69]] = 5, -2, 1  # one in each batch of 32
    compression._measure_ranges(model, _Quantizer, images)
    measured = [(each["min_var"].value, each["max_var"].value) for each in ranges]
    assert measured == [(-2, 5), (-7, 7), (-4, 25)]
    assert trainings == [True] * 3  # so that kernels are rounded


@pytest.mark.parametrize(
    ("write", "epochs", "rate"),
    [
        ("write_quantization_aware", 3, 1e-5),
        ("write_pruned", 10, 3e-4),
        ("write_clustered", 3, 1e-4),
    ],
)
def test_epochs_and_learning_rates(write, epochs, rate, monkeypatch):
    import tf_keras

    trainings = []

    def fit(model, *args, epochs, **kwargs):
        trainings.append((epochs, float(model.optimizer.learning_rate)))

    monkeypatch.setattr(tf_keras.Model, "fit", fit)
    monkeypatch.setattr(compression, "_write", lambda *args, **kwargs: None)
    inputs = keras.Input((4, 4, 3))
    student = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    images = np.zeros((2, 4, 4, 3), "float32")
    for given in ({}, {"epochs": 2, "learning_rate": 0.5}):
        getattr(compression, write)(student, None, ExportOptions(calibration=images, **given))
    assert trainings == [(epochs, pytest.approx(rate)), (2, 0.5)]


def test_kernels_are_those_of_dense_layers_and_whole_convolutions():
    import tf_keras

    layers = tf_keras.layers
    with_kernels = layers.Conv2D(2, 1), layers.Dense(2)
    without = layers.DepthwiseConv2D(1), layers.BatchNormalization()
    found = [compression._has_kernel(each, tf_keras) for each in (*with_kernels, *without)]
    assert found == [True, True, False, False]


def test_a_result_that_is_zero_for_all_images_has_a_range(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu")(inputs)
    dead = keras.initializers.Constant(-100)
    zeros = keras.layers.Conv2D(8, 1, activation="relu", bias_initializer=dead)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, zeros]))
    student = keras.Model(inputs, keras.layers.Dense(4)(x))
    images = np.random.default_rng(4).standard_normal((40, 8, 8, 3)).astype("float32")
    result = export_student(
        student, tmp_path, "tflite-qat", images=images, calibration=images, epochs=1
    )
    assert result.max_difference < 0.1 * result.scale


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tflite-qat", "tflite-pruned", "tflite-clustered"])
def test_training_leaves_the_scaling_of_pixels_as_it_is(student, tmp_path, name):
    pixels = np.random.default_rng(4).integers(0, 256, (64, 16, 16, 3), "uint8")
    given = {"images": pixels, "calibration": pixels, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    options = {"min_agreement": 0, "epochs": 1, "sparsity": 0.1, "clusters": 64}
    # A larger step would destroy the scale, which is 1/64.
    result = export_student(student, tmp_path, name, learning_rate=1e-3, **given, **options)
    normalized = ((pixels / 255 - 0.5) / 0.25).astype("float32")
    scale = np.abs(np.asarray(student(normalized))).max()
    assert result.max_difference < 0.5 * scale


@pytest.mark.parametrize("write", ["write_quantization_aware", "write_pruned"])
def test_batch_normalizations_that_are_not_folded_stay_as_they_are(write, monkeypatch):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="bn")(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    student = trained_looking(keras.Model(inputs, keras.layers.Dense(4)(x)))
    written = {}

    def remember(model, *args, **kwargs):
        written.update({w.name.split(":")[0]: w.numpy() for w in model.weights})

    monkeypatch.setattr(compression, "_write", remember)
    images = np.random.default_rng(4).standard_normal((32, 8, 8, 3)).astype("float32")
    options = ExportOptions(calibration=images, epochs=1, learning_rate=1e-2)
    getattr(compression, write)(student, None, options)
    for weight in student.get_layer("bn").weights:
        np.testing.assert_array_equal(written[f"bn/{weight.name}"], weight)
    (kernel,) = (value for name, value in written.items() if name.endswith("conv/kernel"))
    assert np.any(kernel != student.get_layer("conv").kernel)


def test_pruned_kernels_are_sparse(student, images, tmp_path):
    kernels = _kernels(_export(student, tmp_path, "tflite-pruned", images, sparsity=0.5).path)
    zeros = sum(np.sum(kernel == 0) for kernel in kernels) / sum(k.size for k in kernels)
    assert 0.45 < zeros < 0.55


def test_clustered_kernels_have_few_values(student, images, tmp_path):
    kernels = _kernels(_export(student, tmp_path, "tflite-clustered", images, clusters=8).path)
    assert kernels
    assert max(len(np.unique(kernel)) for kernel in kernels) <= 8


def test_clusters_of_an_unfolded_student_and_of_a_small_kernel(tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(16, 3, name="large")(inputs))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    x = keras.layers.BatchNormalization()(x)
    model = trained_looking(keras.Model(inputs, keras.layers.Dense(3, name="small")(x)))
    images = np.zeros((4, 16, 16, 3), "float32")
    kernels = _kernels(
        _export(model, tmp_path, "tflite-clustered", images, clusters=60, fold=False).path
    )
    # The kernel [16, 3] has fewer values than that.
    assert [len(np.unique(kernel)) for kernel in kernels] == [60]


def test_a_frozen_layer_is_clustered(images, tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(16, 3, activation="relu", trainable=False)(inputs)
    x = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = trained_looking(keras.Model(inputs, x))
    (kernel,) = _kernels(_export(model, tmp_path, "tflite-clustered", images, clusters=60).path)
    assert len(np.unique(kernel)) == 60


@pytest.mark.parametrize("name", ["tflite-qat", "tflite-pruned", "tflite-clustered"])
def test_without_images_to_train_on(student, images, tmp_path, name):
    with pytest.raises(ValueError, match="`calibration` must be given"):
        export_student(student, tmp_path, name, images=images)


def test_options_out_of_range(student, images, tmp_path):
    for option, value in (
        *(("sparsity", 1.0), ("clusters", 1), ("epochs", 0)),
        *(("learning_rate", 0.0), ("learning_rate", -1e-3)),
        ("seed", -1),
    ):
        with pytest.raises(ValueError, match=f"`{option}` must be"):
            given = {"calibration": images, option: value}
            export_student(student, tmp_path, "tflite-pruned", **given)


def test_the_seed_is_that_of_the_training():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    student = trained_looking(keras.Model(inputs, keras.layers.Dense(3)(x)))
    images = np.random.default_rng(4).standard_normal((80, 4, 4, 3)).astype("float32")

    def trained(seed):
        model = to_tf_keras(student)
        options = ExportOptions(calibration=images, epochs=1, learning_rate=0.1, seed=seed)
        compression._fine_tune(model, student, options)
        return model.get_weights()[0]

    np.testing.assert_array_equal(trained(1), trained(1))
    assert np.any(trained(1) != trained(2))
