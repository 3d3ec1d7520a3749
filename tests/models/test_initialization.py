import keras
import numpy as np
import pytest
from scipy import stats

from letkd_keras.models.initialization import kaiming_normal, torch_bias_uniform, torch_uniform

PYTORCH_CONVOLUTIONS = ("snv1", "snv2", "imagenet_mobilenet_v1")
SMALL_NORMAL_CLASSIFIER = ("mnv2", "imagenet_mobilenet_v2")
ZERO_BIAS = ("wrn16_1", "wrn16_2", "wrn40_1", "wrn40_2", *SMALL_NORMAL_CLASSIFIER)


def uniform(bound):
    return stats.uniform(-bound, 2 * bound)


def pytorch_fans(layer):
    """Fan in and fan out as PyTorch counts them: on [out, in / groups, h, w] or [out, in]."""
    *window, inputs, outputs = layer.kernel.shape
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        inputs, outputs = outputs, inputs  # [C, 1, h, w]
    return np.prod(window, dtype=int) * inputs, np.prod(window, dtype=int) * outputs


def expected_weight(name, layer):
    fan_in, fan_out = pytorch_fans(layer)
    if isinstance(layer, keras.layers.Dense):
        small = name in SMALL_NORMAL_CLASSIFIER
        return stats.norm(scale=0.01) if small else uniform(fan_in**-0.5)
    if name in PYTORCH_CONVOLUTIONS:
        return uniform(fan_in**-0.5)
    return stats.norm(scale=(2 / fan_out) ** 0.5)


def check_sample(weights, distribution, label):
    """Six standard errors and a p-value of 1e-9: among 1,500 layers no right one fails by chance.

    The smallest layers have 72 weights; there a standard deviation wrong by half is seen.
    """
    sample = np.ravel(weights)
    kurtosis = float(distribution.stats(moments="k")) + 3
    tolerance = 6 * ((kurtosis - 1) / (4 * sample.size)) ** 0.5
    assert sample.std() == pytest.approx(distribution.std(), rel=tolerance), label
    assert stats.kstest(sample[:20_000], distribution.cdf).pvalue > 1e-9, label
    if np.isfinite(distribution.support()[1]):
        assert np.abs(sample).max() <= distribution.support()[1] * (1 + 1e-6), label
        assert np.abs(sample).max() >= distribution.support()[1] * (1 - 21 / sample.size), label


def test_every_layer_of_every_network_starts_as_in_pytorch(network):
    weighted = [layer for layer in network.layers if hasattr(layer, "kernel")]
    for layer in weighted:
        label = f"{network.name}/{layer.name}"
        check_sample(layer.kernel.numpy(), expected_weight(network.name, layer), label)
        assert layer.bias is None or layer is weighted[-1], label
    first_values = {float(layer.kernel.numpy().flat[0]) for layer in weighted}
    assert len(first_values) == len(weighted), "two layers start with the same values"

    classifier = weighted[-1]
    if network.name in ZERO_BIAS:
        assert not classifier.bias.numpy().any()
    else:
        fan_in, _ = pytorch_fans(classifier)
        check_sample(classifier.bias.numpy(), uniform(fan_in**-0.5), f"{network.name}/bias")


def test_batch_normalization_starts_as_the_identity(network):
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            constants = zip(
                (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance),
                (1, 0, 0, 1),
                strict=True,
            )
            assert all((weight.numpy() == value).all() for weight, value in constants), layer.name


@pytest.mark.parametrize(
    "layer, fan_in, fan_out",
    [
        (keras.layers.Conv2D(40, 3), 9 * 24, 9 * 40),
        (keras.layers.Conv2D(48, 3, groups=4), 9 * 6, 9 * 48),
        (keras.layers.DepthwiseConv2D(5), 25, 25 * 24),
        (keras.layers.Conv2DTranspose(40, 4), 16 * 40, 16 * 24),
        (keras.layers.Dense(400), 24, 400),
    ],
    ids=["conv", "grouped", "depthwise", "transposed", "linear"],
)
def test_fans_are_those_of_pytorch(layer, fan_in, fan_out):
    keras.utils.set_random_seed(1)
    layer.build((None, 8, 8, 24))
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    shape = layer.kernel.shape
    check_sample(torch_uniform(depthwise)(shape), uniform(fan_in**-0.5), "uniform")
    check_sample(kaiming_normal(depthwise)(shape), stats.norm(scale=(2 / fan_out) ** 0.5), "normal")
    check_sample(torch_bias_uniform(fan_in)((4000,)), uniform(fan_in**-0.5), "bias")


def test_initializers_survive_a_round_trip():
    for initializer in (torch_uniform(), kaiming_normal(depthwise=True), torch_bias_uniform(7)):
        config = keras.initializers.serialize(initializer)
        copy = keras.initializers.deserialize(config)
        assert copy.get_config() == initializer.get_config()
