import dataclasses

import keras
import numpy as np
import pytest
from random_students import trained_looking, with_kd_layers

from letkd_keras import KDLayer, insert_kd_layers, models
from letkd_keras.export import folding
from letkd_keras.export.batch_norm_folding import fold_batch_norms, untrained_batch_norms
from letkd_keras.export.comparison import ExportMismatch
from letkd_keras.export.folding import fold, kernels_of
from letkd_keras.precision import dtype_policy


def _logits(model, images):
    return np.asarray(model(images, training=False))


def _check(model, images):
    before = [np.array(weight) for weight in model.weights]
    layers = [layer.name for layer in model.layers]
    calls = [len(layer._inbound_nodes) for layer in model.layers]
    folded = fold(model, images=images)
    reference = _logits(model, images)
    scale = np.abs(reference).max()
    np.testing.assert_allclose(_logits(folded, images), reference, atol=2e-5 * scale)
    assert not any(isinstance(layer, KDLayer) for layer in folded.layers)
    if "wrn" not in model.name:
        assert not any(
            isinstance(layer, keras.layers.BatchNormalization) for layer in folded.layers
        )
    # The original: the same weights, layers and graph.
    assert [layer.name for layer in model.layers] == layers
    assert [len(layer._inbound_nodes) for layer in model.layers] == calls
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    # Idempotent.
    again = fold(folded, images=images)
    assert again.count_params() == folded.count_params()
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in folded.layers]
    np.testing.assert_array_equal(_logits(again, images), _logits(folded, images))
    return folded


@pytest.mark.parametrize(
    "name",
    [
        *("resnet20", "snv1", "wrn16_2"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("snv2", "mnv2")),
    ],
)
def test_students_of_the_zoo(name):
    images = np.random.default_rng(2).standard_normal((4, 32, 32, 3)).astype("float32")
    _check(with_kd_layers(name, size=32), images)


def test_only_batch_norms_after_sums_are_left():
    folded = fold(with_kd_layers("wrn16_2", size=32))
    left = [
        layer.name for layer in folded.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    # A pre-activation block's first BN reads a sum, or the stem that a shortcut also reads.
    assert all(name == "bn1" or name.endswith("_bn1") for name in left)


def test_student_of_keras_applications_with_softmax_and_nested_backbone():
    backbone = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), weights=None, include_top=False, alpha=0.35
    )
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(backbone(inputs, training=False))
    x = keras.layers.Dropout(0.5)(x)
    student = keras.Model(inputs, keras.layers.Dense(7, activation="softmax")(x), name="app")
    model = insert_kd_layers(
        student,
        KDLayer(24, name="kd_penultimate"),
        KDLayer(16, name="kd_intermediate"),
        penultimate_layer="out_relu",
        intermediate_layer="block_14_add",
    )
    images = np.random.default_rng(2).standard_normal((4, 32, 32, 3)).astype("float32")
    probabilities = _logits(trained_looking(model), images)
    logits = _logits(fold(model), images)
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(scores, probabilities, atol=1e-5)


def test_kernels_by_hand():
    layer = KDLayer(2, alpha=0.5, epsilon=1e-12)
    layer.build((None, 1, 1, 2))
    layer.template_kernel.assign([[3.0, 0.0], [4.0, 2.0]])
    layer.template_scale.assign(2.0)
    layer.value_kernel.assign([[0.0, 1.0], [5.0, 1.0]])
    layer.value_scale.assign(4.0)
    norm = layer.batch_normalization
    norm.gamma.assign([1.0, 2.0])
    norm.beta.assign([0.0, 1.0])
    norm.moving_mean.assign([0.5, 0.0])
    norm.moving_variance.assign([4.0, 1.0])
    kernels = kernels_of(layer)
    root = np.sqrt(2)
    # Columns (3, 4) / 5 and (0, 1), times s1 = 2, times gamma / sigma = (0.5, 2), over sqrt(C).
    np.testing.assert_allclose(kernels.templates, np.array([[0.6, 0], [0.8, 4]]) / root, atol=1e-7)
    np.testing.assert_allclose(kernels.bias, [-0.25, 1])
    # Columns (0, 1) and (1, 1) / sqrt(2), times alpha * s2 = 2, over sqrt(K).
    np.testing.assert_allclose(kernels.values, np.array([[0, 1], [root, 1]]), atol=1e-7)


def test_a_template_and_a_value_of_zeros_stay_zeros():
    inputs = keras.Input((2, 2, 3))
    layer = KDLayer(4, name="kd")
    trained_looking(keras.Model(inputs, layer(inputs)))
    for kernel in (layer.template_kernel, layer.value_kernel):
        kernel.assign(np.asarray(kernel) * np.arange(kernel.shape[1]))
    kernels = kernels_of(layer)
    for folded in (kernels.templates, kernels.values):
        np.testing.assert_array_equal(folded[:, 0], 0)
        assert folded[:, 1:].all()


class _Unused(keras.layers.Layer):
    """Has a batch normalization that it never calls."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization = keras.layers.BatchNormalization(name="unused")

    def call(self, inputs):
        return inputs


def test_statistics_that_were_never_updated():
    inputs = keras.Input((4,))
    x = _Unused()(inputs)
    for name in ("initial", "mean", "variance"):
        x = keras.layers.BatchNormalization(name=name)(x)
    x = keras.layers.Reshape((1, 1, 4))(x)
    model = keras.Model(inputs, KDLayer(2, name="kd_penultimate")(x))
    model.get_layer("mean").moving_mean.assign([0, 0, 0, 0.1])
    model.get_layer("variance").moving_variance.assign([1, 1, 1, 2])
    assert untrained_batch_norms(model) == ["initial", "kd_penultimate/batch_normalization"]


def test_merges_with_the_classifier_only_where_that_is_smaller():
    few, many = (with_kd_layers("resnet8", classes=classes) for classes in (5, 100))
    assert fold(few).get_layer("kd_penultimate_logits").kernel.shape == (24, 5)
    # 64 channels, 100 classes: the value kernel stays, after the average.
    kernel = fold(many, images=np.ones((2, 16, 16, 3))).get_layer("kd_penultimate_values").kernel
    assert kernel.shape == (24, 64)


def test_shufflenet_v1_becomes_at_most_two_thirds():
    student = models.build("snv1", num_classes=100)
    model = insert_kd_layers(
        student, KDLayer(4096, name="kd_penultimate"), KDLayer(800, name="kd_intermediate")
    )
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3))
    assert fold(model, images=images).count_params() <= 0.67 * model.count_params()


def test_layer_of_alpha_zero_is_left_out(images):
    model = with_kd_layers("resnet8", alphas=(0.0, 1.0))
    folded = _check(model, images)
    names = [layer.name for layer in folded.layers]
    assert not any(name.startswith("kd_penultimate") for name in names)
    assert "kd_intermediate_templates" in names


def test_model_without_kd_layers_only_loses_its_batch_norms(images):
    model = trained_looking(models.build("resnet8", num_classes=5, input_shape=(16, 16, 3)))
    folded = _check(model, images)
    assert folded.count_params() < model.count_params()


@pytest.mark.parametrize("heads", ["after an activation", "with an activation", "two"])
def test_values_that_no_single_classifier_reads_are_not_merged(images, heads):
    inputs = keras.Input((16, 16, 3))
    x = KDLayer(12, name="kd")(keras.layers.Conv2D(6, 3)(inputs))
    x = keras.layers.GlobalAveragePooling2D()(x)
    if heads == "after an activation":
        x = keras.layers.Dense(4)(keras.layers.ReLU()(x))
    elif heads == "with an activation":
        x = keras.layers.Dense(4)(keras.layers.Dense(5, activation="relu")(x))
    else:
        x = keras.layers.Add()([keras.layers.Dense(4)(x), keras.layers.Dense(4)(x)])
    folded = _check(trained_looking(keras.Model(inputs, x)), images)
    assert folded.get_layer("kd_values").kernel.shape == (12, 6)


def test_locations_of_zeros(images):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(8, 1, activation="relu", name="features")(inputs)
    x = KDLayer(16, name="kd")(x)
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    model = trained_looking(keras.Model(inputs, outputs))
    model.get_layer("features").bias.assign([-0.01] * 8)
    _check(model, np.zeros((2, 4, 4, 3), "float32"))


@pytest.mark.parametrize(
    ("options", "is_folded"),
    [
        ({"center": False, "epsilon": 0.5}, True),
        ({"scale": False}, True),
        ({"center": False, "scale": False, "axis": 3}, True),
        ({"axis": 1}, False),
    ],
)
@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Conv2D(5, 2, name="before"),
        keras.layers.DepthwiseConv2D(2, depth_multiplier=2, name="before"),
        keras.layers.Dense(5, use_bias=False, name="before"),
    ],
)
def test_the_options_of_a_batch_norm(layer, options, is_folded):
    layer = layer.from_config(layer.get_config())
    inputs = keras.Input((4, 6, 3))
    x = keras.layers.BatchNormalization(name="norm", **options)(layer(inputs))
    model = trained_looking(keras.Model(inputs, keras.layers.ReLU()(x)))
    images = np.random.default_rng(2).standard_normal((2, 4, 6, 3)).astype("float32")
    folded = fold_batch_norms(model)
    np.testing.assert_allclose(_logits(folded, images), _logits(model, images), atol=1e-5)
    assert ("norm" in [layer.name for layer in folded.layers]) != is_folded


@pytest.mark.parametrize(("axis", "is_folded"), [(-1, True), (3, True), (1, False)])
def test_a_batch_norm_before_a_dense_layer_of_locations(axis, is_folded):
    inputs = keras.Input((4, 6, 3))
    x = keras.layers.BatchNormalization(axis, name="norm")(inputs)
    model = trained_looking(keras.Model(inputs, keras.layers.Dense(5)(x)))
    images = np.random.default_rng(2).standard_normal((2, 4, 6, 3)).astype("float32")
    folded = fold_batch_norms(model)
    np.testing.assert_allclose(_logits(folded, images), _logits(model, images), atol=1e-5)
    assert ("norm" in [layer.name for layer in folded.layers]) != is_folded


@pytest.mark.parametrize(("axis", "is_folded"), [(1, True), (-3, True), (-1, False)])
def test_a_batch_norm_after_a_channels_first_convolution(axis, is_folded):
    inputs = keras.Input((3, 4, 7))
    x = keras.layers.Conv2D(5, 2, data_format="channels_first", use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(axis, name="norm")(x)
    model = trained_looking(keras.Model(inputs, x))
    images = np.random.default_rng(2).standard_normal((2, 3, 4, 7)).astype("float32")
    folded = fold_batch_norms(model)
    np.testing.assert_allclose(_logits(folded, images), _logits(model, images), atol=1e-5)
    assert ("norm" in [layer.name for layer in folded.layers]) != is_folded


def test_a_batch_norm_after_an_activation_of_the_layer_stays():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(5, 2, activation="relu")(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(x))
    model = trained_looking(keras.Model(inputs, x))
    images = np.random.default_rng(2).standard_normal((2, 4, 4, 3)).astype("float32")
    folded = fold_batch_norms(model)
    np.testing.assert_allclose(_logits(folded, images), _logits(model, images), atol=1e-5)
    assert "norm" in [layer.name for layer in folded.layers]


def test_batch_norm_of_an_output_read_twice_stays():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(3, 1, name="shared")(inputs)
    y = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([x, y]))
    model = trained_looking(keras.Model(inputs, keras.layers.Dense(3)(x), name="wrn_like"))
    folded = _check(model, np.ones((2, 4, 4, 3), "float32"))
    assert "norm" in [layer.name for layer in folded.layers]


def test_batch_norms_next_to_idle_layers_and_before_a_classifier(images):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.RandomContrast(0.2)(keras.layers.RandomFlip()(inputs))
    x = keras.layers.SpatialDropout2D(0.1)(keras.layers.Conv2D(6, 3)(x))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(KDLayer(12, name="kd")(x))
    x = keras.layers.Dropout(0.1)(keras.layers.BatchNormalization()(x))
    x = keras.layers.BatchNormalization()(keras.layers.Dense(4, name="classifier")(x))
    folded = _check(trained_looking(keras.Model(inputs, x)), images)
    kinds = {type(layer).__name__ for layer in folded.layers}
    assert not any("Random" in kind or "Dropout" in kind for kind in kinds)
    assert "kd_logits" in [layer.name for layer in folded.layers]  # merged with the classifier


@pytest.mark.parametrize("name", [name for name in dir(keras.layers) if "Dropout" in name])
def test_every_dropout_is_removed(images, name):
    rank = {"SpatialDropout1D": (256, 3), "SpatialDropout3D": (2, 8, 16, 3)}
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Reshape(rank.get(name, (16, 16, 3)))(inputs)
    x = keras.layers.Flatten()(getattr(keras.layers, name)(0.1)(x))
    folded = _check(keras.Model(inputs, keras.layers.Dense(4)(x)), images)
    assert name not in {type(layer).__name__ for layer in folded.layers}


def test_layers_may_be_called_by_the_names_of_their_arguments(images):
    x = inputs = keras.Input((16, 16, 3))
    for layer in (
        keras.layers.Conv2D(6, 3),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.1),
        KDLayer(12, name="kd"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4),
    ):
        x = layer(inputs=x)
    _check(trained_looking(keras.Model(inputs, x)), images)


def test_a_random_crop_is_a_crop_of_the_center():
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(4, 3)(keras.layers.RandomCrop(8, 8)(inputs))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    _check(model, np.random.default_rng(2).standard_normal((2, 12, 12, 3)).astype("float32"))


def test_mixed_precision_student_folds_to_float32(images):
    # Also where the policy of the training is still set.
    with dtype_policy("mixed_bfloat16"):
        model = with_kd_layers("resnet8")
        folded = fold(model, images=images)
    assert {layer.compute_dtype for layer in folded.layers} == {"float32"}
    reference = _logits(model, images).astype("float32")
    np.testing.assert_allclose(_logits(folded, images), reference, atol=0.05)
    assert model.layers[1].compute_dtype == "bfloat16"


def test_bytes_are_for_a_student_that_rescales_them():
    pixels = np.random.default_rng(2).integers(0, 256, (4, 8, 8, 3), "uint8")
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    model = keras.Model(inputs, outputs)
    with pytest.raises(ValueError, match="`images` must be normalized as for the student"):
        fold(model, images=pixels)
    rescaled = keras.layers.Rescaling(1 / 255)(inputs)
    fold(keras.Model(inputs, model(rescaled)), images=pixels)


def test_folded_model_is_saved_and_loaded(student, images, tmp_path):
    folded = fold(student)
    folded.save(tmp_path / "folded.keras")
    loaded = keras.models.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(_logits(loaded, images), _logits(folded, images))


def test_wrong_algebra_is_refused(student, monkeypatch):
    right = kernels_of

    def wrong(layer):
        kernels = right(layer)
        return dataclasses.replace(kernels, bias=kernels.bias + 0.01)

    monkeypatch.setattr(folding, "kernels_of", wrong)
    with pytest.raises(ExportMismatch, match="folded"):
        fold(student)


def test_operations_on_tensors_and_adapted_layers_are_copied(images):
    inputs = keras.Input((16, 16, 3))
    normalize = keras.layers.Normalization(axis=-1)
    normalize.adapt(images * np.array([1.0, 2.0, 3.0]) + 1)
    x = keras.layers.Conv2D(4, 3, name="conv")(normalize(inputs))
    x = keras.ops.relu(keras.layers.BatchNormalization()(x)) + 0.5 * x
    x = KDLayer(12, name="kd")(x)
    x = keras.ops.mean(x, axis=(1, 2))
    model = trained_looking(keras.Model(inputs, keras.layers.Dense(3)(x), name="wrn_like"))
    normalize.finalize_state()
    folded = _check(model, images)
    assert "kd_values" in [layer.name for layer in folded.layers]


def test_channels_first():
    inputs = keras.Input((3, 8, 8))
    x = keras.layers.Conv2D(6, 3, data_format="channels_first")(inputs)
    x = KDLayer(10, data_format="channels_first", name="first")(x)
    x = keras.layers.ReLU()(x)
    x = KDLayer(12, data_format="channels_first", name="last")(x)
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    model = trained_looking(keras.Model(inputs, keras.layers.Dense(4)(x)))
    images = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype("float32")
    folded = _check(model, images)
    assert folded.get_layer("last_logits").kernel.shape == (12, 4)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_average_that_keeps_its_dimensions_and_a_convolution_as_classifier(images, data_format):
    # The head of keras.applications' MobileNet V1.
    images = images if data_format == "channels_last" else images.transpose(0, 3, 1, 2)
    form = {"data_format": data_format}
    inputs = keras.Input(images.shape[1:])
    x = KDLayer(12, name="kd", **form)(keras.layers.Conv2D(6, 3, **form)(inputs))
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, **form)(x)
    x = keras.layers.Conv2D(4, 1, **form)(keras.layers.Dropout(0.1)(x))
    model = trained_looking(keras.Model(inputs, keras.layers.Reshape((4,))(x)))
    folded = _check(model, images)
    # A convolution: on [B, 1, 1, C] a dense layer would be no single operation in TFLite.
    assert type(folded.get_layer("kd_values")) is keras.layers.Conv2D
    assert folded.get_layer("kd_values").kernel.shape == (1, 1, 12, 6)


def test_average_that_keeps_its_dimensions_and_a_dense_classifier(images):
    inputs = keras.Input((16, 16, 3))
    x = KDLayer(12, name="kd")(keras.layers.Conv2D(6, 3)(inputs))
    x = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D(keepdims=True)(x))
    model = trained_looking(keras.Model(inputs, keras.layers.Reshape((4,))(x)))
    # The values are not merged with the classifier, whose output would be a sum of maps.
    assert _check(model, images).get_layer("kd_values").kernel.shape == (1, 1, 12, 6)


def test_lambda_layer_and_shared_kd_layer_are_refused():
    inputs = keras.Input((8, 8, 3))
    shared = KDLayer(4, name="kd")
    outputs = keras.layers.GlobalAveragePooling2D()(shared(shared(inputs)))
    with pytest.raises(ValueError, match="'kd', called more than once"):
        fold(keras.Model(inputs, outputs))
    outputs = keras.layers.Lambda(lambda x: 2 * x, name="twice")(shared(inputs))
    outputs = keras.layers.GlobalAveragePooling2D()(outputs)
    with pytest.raises(ValueError, match="Lambda layer 'twice'"):
        fold(keras.Model(inputs, outputs))
