import keras
import numpy as np
import pytest
import tensorflow as tf
from small_vit import small_vit

from letkd_keras import KDLayer, insert_kd_layers, models, quantization_aware
from letkd_keras.functional.cost import Cost, cost_of, known_cost_of


def sequence(*layers, shape=(8, 8, 4)):
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


class Scales(keras.layers.Layer):
    """A layer of another package, as the LayerScale of ConvNeXt."""

    def build(self, input_shape):
        self.gamma = self.add_weight(shape=input_shape[-1:])

    def call(self, inputs):
        return inputs * self.gamma


@pytest.mark.parametrize(
    "layers, parameters, multiply_adds",
    [
        # 8x8 locations, a 3x3 window of 4 channels for each of 6 filters
        ([keras.layers.Conv2D(6, 3, padding="same")], 9 * 4 * 6 + 6, 64 * 9 * 4 * 6),
        ([keras.layers.Conv2D(6, 3, 2, padding="valid")], 9 * 4 * 6 + 6, 9 * 9 * 4 * 6),
        ([keras.layers.Conv2D(6, 3, groups=2, use_bias=False)], 9 * 2 * 6, 36 * 9 * 2 * 6),
        ([keras.layers.DepthwiseConv2D(3, depth_multiplier=2)], 9 * 8 + 8, 36 * 9 * 8),
        ([keras.layers.SeparableConv2D(5, 3, use_bias=False)], 9 * 4 + 20, 36 * (9 * 4 + 20)),
        # each of the 64 input locations reaches 2x2 locations of 3 channels
        ([keras.layers.Conv2DTranspose(3, 2, 2)], 4 * 4 * 3 + 3, 64 * 4 * 4 * 3),
        ([keras.layers.Flatten(), keras.layers.Dense(10)], 2570, 2560),
        ([keras.layers.Dense(10)], 50, 64 * 40),
        ([keras.layers.BatchNormalization(), keras.layers.ReLU()], 8, 0),
        ([keras.layers.Normalization()], 0, 0),  # statistics, not trained
        ([keras.layers.RMSNormalization()], 4, 0),
        ([Scales()], 4, 0),
        ([keras.layers.PReLU(shared_axes=[1, 2]), keras.layers.AveragePooling2D(2)], 4, 0),
        # templates 5 x 4, vectors 4 x 5, two scales, gamma and beta of 5
        ([KDLayer(5)], 20 + 20 + 2 + 10, 64 * 20 + 64 * 20),
        ([KDLayer(5, alpha=0)], 20 + 1, 64 * 20),
    ],
)
def test_by_hand(layers, parameters, multiply_adds):
    assert cost_of(sequence(*layers)) == Cost(parameters, multiply_adds)


def test_pooled_kd_layer_has_one_value_product_an_image():
    pooling = keras.layers.GlobalAveragePooling2D()
    only_pooled = sequence(KDLayer(5), pooling)
    assert cost_of(only_pooled).multiply_adds == 64 * 20 + 64 * 20
    assert cost_of(only_pooled, pooled=True).multiply_adds == 64 * 20 + 20
    read_twice = sequence(KDLayer(5), keras.layers.ReLU(), pooling)
    assert cost_of(read_twice, pooled=True).multiply_adds == 64 * 20 + 64 * 20


def test_the_pooling_may_be_outside_the_model_of_the_kd_layer():
    model = sequence(sequence(KDLayer(5)), keras.layers.GlobalAveragePooling2D())
    assert cost_of(model, pooled=True).multiply_adds == 64 * 20 + 20


@pytest.mark.parametrize("pooled", [False, True])
def test_a_model_inside_costs_what_its_layers_cost(pooled):
    kd_layer, pooling = KDLayer(5), keras.layers.GlobalAveragePooling2D()
    inside = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Dropout(0.1), kd_layer])
    x = inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, pooling(inside(x, training=False)))
    assert cost_of(model, pooled=pooled) == cost_of(sequence(kd_layer, pooling), pooled=pooled)


def test_fake_quantization_is_not_counted():
    model = sequence(keras.layers.Conv2D(6, 3), keras.layers.ReLU(), KDLayer(5))
    assert cost_of(quantization_aware(model)) == cost_of(model)


def test_shared_layers_cost_once_in_parameters_and_each_time_in_operations():
    conv = keras.layers.Conv2D(4, 1, use_bias=False)
    assert cost_of(sequence(conv, conv)) == Cost(16, 2 * 64 * 16)


def test_models_inside_models():
    conv = keras.layers.Conv2D(6, 3, padding="same", use_bias=False)
    backbone = sequence(conv, shape=(None, None, 4))
    head = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    model = sequence(backbone, head, shape=(4, 4, 4))
    assert cost_of(model) == Cost(216 + 14, 16 * 216 + 12)


def test_input_shape_of_a_model_of_any_size():
    model = sequence(keras.layers.Conv2D(2, 1, use_bias=False), shape=(None, None, 3))
    with pytest.raises(ValueError, match="`input_shape` is needed"):
        cost_of(model)
    assert cost_of(model, (10, 20, 3)) == Cost(6, 200 * 6)


def test_counting_leaves_no_trace():
    model = models.build("resnet8", num_classes=10)
    before = [len(layer._inbound_nodes) for layer in model.layers]
    cost_of(model)
    assert [len(layer._inbound_nodes) for layer in model.layers] == before


def test_frozen_networks_cost_the_same():
    model = models.build("resnet8", num_classes=10)
    before = cost_of(model)
    model.trainable = False
    assert cost_of(model) == before


def test_parameters_are_those_of_the_golden_files(golden_model):
    network = golden_model.stem.removeprefix("model_")
    if network not in models.names():
        pytest.skip(f"{network} is not in the zoo")
    expected = int(np.load(golden_model)["trainable_params"])
    assert cost_of(models.build(network, num_classes=100)).parameters == expected


@pytest.mark.parametrize(
    "network, parameters, millions",
    [
        ("resnet20", 278_324, 41),  # He et al. 2016: 0.27 M, 41 M
        ("imagenet_mobilenet_v2", 3_504_872, 300),  # Sandler et al. 2018: 3.4 M, 300 M
        ("imagenet_mobilenet_v1", 4_231_976, 569),  # Howard et al. 2017: 4.2 M, 569 M
        ("imagenet_resnet18", 11_689_512, 1814),  # torchvision: 1.814 G
        ("imagenet_resnet50", 25_557_032, 4089),  # torchvision: 4.089 G
    ],
)
def test_known_networks(network, parameters, millions):
    cost = cost_of(models.build(network))
    assert cost.parameters == parameters
    assert cost.multiply_adds / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(
    "student, parameters, multiply_adds",
    [
        ("resnet20", 3.3, 2.0),
        ("wrn16_2", 2.8, 1.8),
        ("snv1", 10.9, 4.9),
        ("snv2", 7.7, 4.3),
        ("mnv2", 14.1, 7.5),
    ],
)
def test_cost_of_students_with_the_kd_layers_of_letkd2(student, parameters, multiply_adds):
    plain = models.build(student, num_classes=100)
    with_layers = insert_kd_layers(plain, KDLayer(4096), KDLayer(800))
    before, after = cost_of(plain), cost_of(with_layers)
    assert after.parameters / before.parameters == pytest.approx(parameters, abs=0.05)
    assert after.multiply_adds / before.multiply_adds == pytest.approx(multiply_adds, abs=0.05)


def tokens(length=5, channels=8):
    return keras.Input((length, channels))


@pytest.mark.parametrize(
    "equation, output_shape, multiply_adds",
    [
        ("abc,cd->abd", (5, 3), 5 * 8 * 3),
        ("...c,cd->...d", (3,), 5 * 8 * 3),
        ("abc,cde->abde", (5, 2, 4), 5 * 8 * 2 * 4),
        ("abc,bd->adc", (7, 8), 5 * 8 * 7),  # of the tokens
        ("abc,cd->ad", (3,), 5 * 8 * 3),  # the tokens are summed
    ],
)
def test_einsum_dense_by_hand(equation, output_shape, multiply_adds):
    inputs = tokens()
    outputs = keras.layers.EinsumDense(equation, output_shape)(inputs)
    assert cost_of(keras.Model(inputs, outputs)).multiply_adds == multiply_adds


def test_attention_by_hand():
    queries, others = tokens(), keras.layers.UpSampling1D(2)
    attention = keras.layers.MultiHeadAttention(3, key_dim=4, value_dim=6, use_bias=False)
    by_position = attention(queries, others(queries))
    by_name = attention(query=queries, value=others(queries))
    # Projections of 5 queries and 10 keys and values, 3 heads each; 5 x 10 scores and weights.
    once = 3 * 8 * (5 * 4 + 10 * 4 + 10 * 6 + 5 * 6) + 3 * 5 * 10 * (4 + 6)
    assert cost_of(keras.Model(queries, by_position)) == Cost(3 * 8 * (4 + 4 + 6 + 6), once)
    assert cost_of(keras.Model(queries, by_name)).multiply_adds == once


def test_products_of_tensors_by_hand():
    x = tokens()
    scores = keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1)))
    assert cost_of(keras.Model(x, keras.ops.matmul(scores, x))) == Cost(0, 5 * 5 * 8 + 5 * 5 * 8)


def test_a_transformer_has_the_cost_of_its_dense_layers_and_attention():
    """12 channels² for each token and 2 channels for each pair of tokens, in each block."""
    model = small_vit(size=28, patch=4, channels=12, blocks=4, classes=3, tokens=0, pooling="mean")
    # Its feed-forward layers have 2 times as many channels, not 4: 8 channels² in place of 12.
    blocks = 4 * (49 * 8 * 12**2 + 49**2 * 2 * 12)
    assert cost_of(model).multiply_adds == 28 * 28 * 3 * 12 + blocks + 12 * 3


@pytest.mark.parametrize(
    "unknown, match",
    [
        (keras.layers.LSTM(4, name="memory"), r"'memory' \(LSTM\)"),
        (keras.layers.Attention(name="look"), r"'look' \(Attention\)"),
        (lambda x: keras.ops.einsum("bij,bkj->bik", x, x), r"\(Einsum\)"),
    ],
    ids=["recurrent", "attention", "einsum"],
)
def test_unknown_layers_are_refused(unknown, match):
    x = tokens()
    outputs = unknown([x, x]) if isinstance(unknown, keras.layers.Attention) else unknown(x)
    with pytest.raises(ValueError, match=match):
        cost_of(keras.Model(x, outputs))


class Gram(keras.layers.Layer):
    """A layer of another package, without weights: the products of all pairs of tokens."""

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(inputs, (0, 2, 1)))


class Foreign(keras.layers.Layer):
    """A layer whose operations Keras does not see."""

    def call(self, inputs):
        return tf.linalg.matmul(inputs, inputs, transpose_b=True)

    def compute_output_spec(self, inputs):
        batch, tokens, _ = inputs.shape
        return keras.KerasTensor((batch, tokens, tokens), inputs.dtype)


class Skipped(keras.layers.Layer):
    """A layer that does nothing at inference."""

    def call(self, inputs, training=None):
        return 2 * inputs if training else inputs


def test_layers_of_other_packages_cost_what_they_call():
    x = tokens()
    _, length, channels = x.shape
    products = length**2 * channels
    assert cost_of(keras.Model(x, Gram()(Skipped()(x)))) == Cost(0, products)
    assert cost_of(keras.Model(x, keras.layers.Lambda(Gram().call)(x))) == Cost(0, products)


class Gated(keras.layers.Layer):
    """A layer of several inputs that counts its calls."""

    def build(self, *_):
        self.calls = self.add_weight(trainable=False, initializer="zeros", name="calls")

    def call(self, pair, gate, training):
        self.calls.assign_add(1.0)
        return keras.ops.matmul(pair[0] + pair[1], keras.ops.transpose(gate, (0, 2, 1)))


def test_layers_of_several_inputs_are_counted_and_not_called():
    x = tokens()
    _, length, channels = x.shape
    model = keras.Model(x, Gated()([x, keras.layers.ReLU()(x)], gate=x, training=False))
    before = model.get_weights()
    assert cost_of(model).multiply_adds == length**2 * channels
    assert model.get_weights() == before


def test_what_layers_of_other_packages_compute_without_keras_is_unknown():
    x = tokens()
    model = keras.Model(x, Foreign(name="other")(x))
    with pytest.raises(ValueError, match=r"'other' \(Foreign\) are unknown"):
        cost_of(model)
    assert known_cost_of(model) == Cost(0, None)


def test_subclassed_models_are_refused():
    with pytest.raises(ValueError, match="must be a functional"):
        cost_of(keras.Model())
