"""The KD layer, the layers that compute soft targets, and layers that behave as in PyTorch."""

from letkd_keras.layers.adaptive_average_pooling import (
    AdaptiveAveragePooling,
    adaptive_average_pool,
)
from letkd_keras.layers.channel_shuffle import ChannelShuffle, ChannelSplit
from letkd_keras.layers.fake_quantization import FakeQuantization
from letkd_keras.layers.grouped_convolution import GroupedConv2D
from letkd_keras.layers.kd_layer import KDLayer
from letkd_keras.layers.onnx_graph import ONNXGraph
from letkd_keras.layers.soft_targets import IntermediateTargets, PenultimateTargets
from letkd_keras.layers.tokens_to_grid import TokensToGrid
from letkd_keras.layers.torch_batch_normalization import TorchBatchNormalization

__all__ = [
    "AdaptiveAveragePooling",
    "ChannelShuffle",
    "ChannelSplit",
    "FakeQuantization",
    "GroupedConv2D",
    "IntermediateTargets",
    "KDLayer",
    "ONNXGraph",
    "PenultimateTargets",
    "TokensToGrid",
    "TorchBatchNormalization",
    "adaptive_average_pool",
]
