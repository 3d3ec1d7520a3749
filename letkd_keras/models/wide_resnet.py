from functools import partial

import keras

from letkd_keras.models import blocks
from letkd_keras.models.initialization import WIDE_RESNET

_conv = partial(blocks.conv, initialization=WIDE_RESNET)


def wide_resnet(depth, factor, num_classes, input_shape, name):
    """Wide residual network for small images (Zagoruyko and Komodakis 2016; RepDistiller's).

    Pre-activation blocks (BN - ReLU - conv - BN - ReLU - conv), three stages of `(depth - 4) / 6`,
    of 16, 32 and 64 times `factor` channels. Where the width changes, the shortcut is a bare 1x1
    convolution of the activated input. No dropout.

    Args:
        depth: 6n + 4 for n blocks a stage.
        factor: Widening factor.
        num_classes: Number of classes.
        input_shape: `(height, width, channels)`, or channels first if Keras is set so.
        name: Name of the model.

    Returns:
        A functional `keras.Model`. Its layer `intermediate` is the raw sum of the last stage's
        first block, without ReLU; `penultimate` follows the last BN - ReLU; `stage1` to `stage3`
        are the raw sums of the stages' last blocks.
    """
    if (depth - 4) % 6:
        raise ValueError(f"`depth` must be 6n + 4. Received: depth={depth}")
    blocks_per_stage = (depth - 4) // 6

    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = _conv(inputs, 16, 3, name="conv1")
    for stage in (1, 2, 3):
        width = 8 * 2**stage * factor
        for block in range(blocks_per_stage):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _block(x, width, stride, name=f"block{stage}_layer_{block}")
            if stage == 3 and block == 0:
                x = blocks.endpoint(x, "intermediate")
        x = blocks.endpoint(x, f"stage{stage}")
    x = blocks.batch_norm(x, name="bn1")
    x = blocks.relu(x, name="relu")
    x = blocks.endpoint(x, "penultimate")
    logits = blocks.classifier(x, num_classes, initialization=WIDE_RESNET, name="fc")
    return keras.Model(inputs, logits, name=name)


def _block(x, width, stride, name):
    shortcut = x
    x = blocks.batch_norm(x, name=f"{name}_bn1")
    x = blocks.relu(x, name=f"{name}_relu1")
    if blocks.channels(x) != width:
        shortcut = _conv(x, width, 1, stride, name=f"{name}_convShortcut")
    x = _conv(x, width, 3, stride, name=f"{name}_conv1")
    x = blocks.batch_norm(x, name=f"{name}_bn2")
    x = blocks.relu(x, name=f"{name}_relu2")
    x = _conv(x, width, 3, name=f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([x, shortcut])
