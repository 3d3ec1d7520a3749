"""How the weights of convolutions and linear layers start, network by network, as in PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import initializers


def torch_uniform(depthwise=False):
    """PyTorch's default for the weight of `Conv2d`, `ConvTranspose2d` and `Linear`.

    Uniform within +-1/sqrt(fan in), hence of standard deviation 1/sqrt(3 fan in). The fan in of a
    convolution is kh * kw * C / groups, of a transposed convolution kh * kw * filters (PyTorch
    reads it off the weight [C, filters, kh, kw]), of a linear layer C.

    Args:
        depthwise: Whether the kernel is that of a `keras.layers.DepthwiseConv2D`.

    Returns:
        A new Keras initializer. Call this function once for each layer: an initializer gives the
        same values at each call.
    """
    # VarianceScaling's uniform bound is sqrt(3 * scale / fan).
    return initializers.VarianceScaling(
        scale=1 / 3, mode=_fan("fan_in", depthwise), distribution="uniform"
    )


def torch_bias_uniform(fan_in):
    """PyTorch's default for the bias of `Conv2d`, `ConvTranspose2d` and `Linear`.

    Args:
        fan_in: That of the layer's weight, counted as in `torch_uniform`: the initializer of a bias
            cannot read it off the shape.

    Returns:
        A new Keras initializer, uniform within +-1/sqrt(fan in).
    """
    bound = fan_in**-0.5
    return initializers.RandomUniform(-bound, bound)


def kaiming_normal(depthwise=False):
    """Normal of standard deviation sqrt(2 / fan out), for a convolution's kernel (He et al. 2015).

    The fan out is kh * kw * filters, of a depthwise convolution kh * kw * C: PyTorch's
    `kaiming_normal_` with `mode="fan_out"`.

    Args:
        depthwise: Whether the kernel is that of a `keras.layers.DepthwiseConv2D`.

    Returns:
        A new Keras initializer.
    """
    return initializers.VarianceScaling(
        scale=2.0, mode=_fan("fan_out", depthwise), distribution="untruncated_normal"
    )


def _fan(mode, depthwise):
    """Keras' name of PyTorch's fan.

    They are the same but for depthwise kernels: Keras' is [kh, kw, C, 1] where PyTorch's is
    [C, 1, kh, kw], so that Keras takes the one fan for the other.
    """
    if not depthwise:
        return mode
    return {"fan_in": "fan_out", "fan_out": "fan_in"}[mode]


def _small_normal():
    return initializers.RandomNormal(stddev=0.01)


def _zeros(fan_in):
    return initializers.Zeros()


@dataclass(frozen=True)
class Initialization:
    """How the weights of a network start.

    The fields make a new initializer for each layer: one that two layers share gives them the same
    values.

    Attributes:
        convolution: Takes `depthwise` and returns the initializer of a convolution's kernel.
        linear_weight: Returns the initializer of the classifier's weight.
        linear_bias: Takes the classifier's fan in and returns the initializer of its bias.
    """

    convolution: Callable[[bool], keras.Initializer]
    linear_weight: Callable[[], keras.Initializer] = torch_uniform
    linear_bias: Callable[[int], keras.Initializer] = torch_bias_uniform


# MobileNetV1, snv1, snv2
PYTORCH_DEFAULT = Initialization(torch_uniform)
# resnet*, imagenet_resnet*
RESNET = Initialization(kaiming_normal)
# wrn*
WIDE_RESNET = Initialization(kaiming_normal, linear_bias=_zeros)
# mnv2, imagenet_mobilenet_v2
MOBILENET_V2 = Initialization(kaiming_normal, _small_normal, _zeros)
