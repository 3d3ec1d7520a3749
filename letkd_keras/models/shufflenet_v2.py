import keras

from letkd_keras.layers.channel_shuffle import ChannelShuffle, ChannelSplit
from letkd_keras.models import blocks

_STEM = 24
_STAGES = ((116, 3), (232, 7), (464, 3))  # channels, units after the one that halves the grid
_LAST = 1024


def shufflenet_v2(num_classes, input_shape, name):
    """ShuffleNetV2 1x for small images (Ma et al. 2018; RepDistiller's variant).

    1x1 stem without max pooling, three stages of stride 2, a last 1x1 convolution. A unit convolves
    one half of the channels (1x1 - 3x3 depthwise - 1x1) and hands the other on; a stage's first
    unit convolves all channels in both branches. Then the channels are shuffled.

    Args:
        num_classes: Number of classes.
        input_shape: `(height, width, channels)`, or channels first if Keras is set so.
        name: Name of the model.

    Returns:
        A functional `keras.Model`. Its layer `intermediate` is the last stage's first unit (464
        channels), `penultimate` follows the last convolution's BN - ReLU (1024), `stage1` to
        `stage3` are the last units of the stages.
    """
    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = _pointwise(inputs, _STEM, "", 1)
    for stage, (width, units) in enumerate(_STAGES, start=1):
        x = _halving_unit(x, width, name=f"layer{stage}_0")
        if stage == len(_STAGES):
            x = blocks.endpoint(x, "intermediate")
        for unit in range(1, units + 1):
            x = _unit(x, name=f"layer{stage}_{unit}")
        x = blocks.endpoint(x, f"stage{stage}")
    x = _pointwise(x, _LAST, "", 2)
    x = blocks.endpoint(x, "penultimate")
    logits = blocks.classifier(x, num_classes, name="linear")
    return keras.Model(inputs, logits, name=name)


def _unit(x, name):
    kept, x = ChannelSplit(name=f"{name}_split")(x)
    width = blocks.channels(x)
    x = _pointwise(x, width, f"{name}_", 1)
    x = _depthwise(x, 1, f"{name}_", 2)
    x = _pointwise(x, width, f"{name}_", 3)
    return _join(kept, x, name)


def _halving_unit(x, width, name):
    left = _depthwise(x, 2, f"{name}_", 1)
    left = _pointwise(left, width // 2, f"{name}_", 2)
    right = _pointwise(x, width // 2, f"{name}_", 3)
    right = _depthwise(right, 2, f"{name}_", 4)
    right = _pointwise(right, width // 2, f"{name}_", 5)
    return _join(left, right, name)


def _join(left, right, name):
    x = blocks.concatenate([left, right], name=f"{name}_cat")
    return ChannelShuffle(2, name=f"{name}_shuffle")(x)


def _pointwise(x, width, prefix, number):
    x = blocks.conv(x, width, 1, name=f"{prefix}conv{number}")
    x = blocks.batch_norm(x, name=f"{prefix}bn{number}")
    return blocks.relu(x, name=f"{prefix}relu{number}")


def _depthwise(x, stride, prefix, number):
    x = blocks.depthwise_conv(x, 3, stride, name=f"{prefix}conv{number}")
    return blocks.batch_norm(x, name=f"{prefix}bn{number}")
