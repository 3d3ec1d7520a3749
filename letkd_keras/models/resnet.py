from functools import partial

import keras

from letkd_keras.models import blocks
from letkd_keras.models.initialization import RESNET

_conv = partial(blocks.conv, initialization=RESNET)
_classifier = partial(blocks.classifier, initialization=RESNET)


def cifar_resnet(depth, widths, num_classes, input_shape, name):
    """Residual network for small images (He et al. 2016, section 4.2; RepDistiller's variant).

    3x3 stem, three stages of `(depth - 2) / 6` basic blocks, the second and third with stride 2,
    global average pooling, a linear classifier giving logits. Where the shape changes, the
    shortcut is a 1x1 convolution with batch normalization.

    Args:
        depth: 6n + 2 for n blocks a stage.
        widths: Channels of the stem and of the three stages.
        num_classes: Number of classes.
        input_shape: `(height, width, channels)`, or channels first if Keras is set so.
        name: Name of the model.

    Returns:
        A functional `keras.Model`. Its layer `intermediate` is the first block of the last stage,
        `penultimate` the last block, `stage1` to `stage3` are the last blocks of the stages; all
        are outputs of a ReLU. Other layers have the names of the PyTorch modules with `_` for `.`.
    """
    if (depth - 2) % 6:
        raise ValueError(f"`depth` must be 6n + 2. Received: depth={depth}")
    stem, *stages = widths

    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = _stem(inputs, stem, 3, 1)
    x = _stages(x, _basic_block, stages, [(depth - 2) // 6] * len(stages), "downsample")
    logits = _classifier(x, num_classes, name="fc")
    return keras.Model(inputs, logits, name=name)


def cifar_resnet50(num_classes, input_shape, name):
    """ResNet-50 with a 3x3 stem of stride 1 and no max pooling (RepDistiller's variant).

    Arguments and named layers are those of `cifar_resnet`, and `stage4`: `intermediate` and
    `penultimate` are in the fourth stage and have 2048 channels. Modules differ from torchvision's
    by `shortcut` for `downsample` and `linear` for `fc`.
    """
    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = _stem(inputs, 64, 3, 1)
    x = _stages(x, _bottleneck, (64, 128, 256, 512), (3, 4, 6, 3), "shortcut")
    logits = _classifier(x, num_classes, name="linear")
    return keras.Model(inputs, logits, name=name)


def imagenet_resnet(depth, num_classes, input_shape, name):
    """ResNet-18, 34 or 50 as torchvision defines and names it: 7x7 stem, max pooling.

    Those of `keras.applications` begin at 50 layers, stride in the first 1x1 convolution of a
    bottleneck (torchvision: in the 3x3) and have biases: torchvision's weights do not fit them.
    Arguments and named layers are those of `cifar_resnet`, and `stage4`: `intermediate` and
    `penultimate` are in the fourth stage.
    """
    block, blocks_per_stage = {
        18: (_basic_block, (2, 2, 2, 2)),
        34: (_basic_block, (3, 4, 6, 3)),
        50: (_bottleneck, (3, 4, 6, 3)),
    }[depth]

    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = _stem(inputs, 64, 7, 2)
    # After a ReLU, padding with zeros is padding with minus infinity.
    x = blocks.pad(x, 1, name="maxpool_pad")
    x = keras.layers.MaxPooling2D(3, 2, name="maxpool")(x)
    x = _stages(x, block, (64, 128, 256, 512), blocks_per_stage, "downsample")
    logits = _classifier(x, num_classes, name="fc")
    return keras.Model(inputs, logits, name=name)


def _stem(x, width, kernel_size, stride):
    x = _conv(x, width, kernel_size, stride, name="conv1")
    x = blocks.batch_norm(x, name="bn1")
    return blocks.relu(x, name="relu")


def _stages(x, block, widths, blocks_per_stage, shortcut):
    """Stages `layer1`, `layer2`, ..., the first of stride 1; `block` builds one block."""
    for stage, (width, count) in enumerate(zip(widths, blocks_per_stage, strict=True), start=1):
        for number in range(count):
            stride = 2 if stage > 1 and number == 0 else 1
            x = block(x, width, stride, f"layer{stage}_{number}", shortcut)
            if stage == len(widths) and number == 0:
                x = blocks.endpoint(x, "intermediate")
        x = blocks.endpoint(x, f"stage{stage}")
    return blocks.endpoint(x, "penultimate")


def _basic_block(x, width, stride, name, shortcut):
    inputs = x
    x = _conv(x, width, 3, stride, name=f"{name}_conv1")
    x = blocks.batch_norm(x, name=f"{name}_bn1")
    x = blocks.relu(x, name=f"{name}_relu1")
    x = _conv(x, width, 3, name=f"{name}_conv2")
    x = blocks.batch_norm(x, name=f"{name}_bn2")
    x = keras.layers.Add(name=f"{name}_add")(
        [x, _shortcut(inputs, width, stride, f"{name}_{shortcut}")]
    )
    return blocks.relu(x, name=f"{name}_relu2")


def _bottleneck(x, width, stride, name, shortcut):
    inputs = x
    x = _conv(x, width, 1, name=f"{name}_conv1")
    x = blocks.batch_norm(x, name=f"{name}_bn1")
    x = blocks.relu(x, name=f"{name}_relu1")
    x = _conv(x, width, 3, stride, name=f"{name}_conv2")
    x = blocks.batch_norm(x, name=f"{name}_bn2")
    x = blocks.relu(x, name=f"{name}_relu2")
    x = _conv(x, 4 * width, 1, name=f"{name}_conv3")
    x = blocks.batch_norm(x, name=f"{name}_bn3")
    x = keras.layers.Add(name=f"{name}_add")(
        [x, _shortcut(inputs, 4 * width, stride, f"{name}_{shortcut}")]
    )
    return blocks.relu(x, name=f"{name}_relu3")


def _shortcut(x, width, stride, name):
    if stride == 1 and blocks.channels(x) == width:
        return x
    x = _conv(x, width, 1, stride, name=f"{name}_0")
    return blocks.batch_norm(x, name=f"{name}_1")
