import keras

from letkd_keras.models import blocks


def cifar_resnet(depth, widths, num_classes, input_shape, name):
    """Residual network for small images (He et al. 2016, section 4.2; RepDistiller's variant).

    3x3 stem, three stages of `(depth - 2) / 6` basic blocks, the second and third with stride 2,
    global average pooling, a linear classifier giving logits. Where the shape changes, the
    shortcut is a 1x1 convolution with batch normalisation.

    Args:
        depth: 6n + 2 for n blocks a stage.
        widths: Channels of the stem and of the three stages.
        num_classes: Number of classes.
        input_shape: `(height, width, channels)`, or channels first if Keras is set so.
        name: Name of the model.

    Returns:
        A functional `keras.Model`. Its layers `intermediate` (first block of the last stage, after
        ReLU) and `penultimate` (last block, after ReLU) are the taps of letKD. Layer names are
        those of the PyTorch modules with `_` for `.`.
    """
    if (depth - 2) % 6:
        raise ValueError(f"`depth` must be 6n + 2. Received: depth={depth}")
    blocks_per_stage = (depth - 2) // 6
    stem, *stages = widths

    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv(inputs, stem, 3, name="conv1")
    x = blocks.batch_norm(x, name="bn1")
    x = blocks.relu(x, name="relu")
    for stage, width in enumerate(stages, start=1):
        for block in range(blocks_per_stage):
            stride = 2 if stage > 1 and block == 0 else 1
            x = _basic_block(x, width, stride, name=f"layer{stage}_{block}")
            if stage == len(stages) and block == 0:
                x = blocks.tap(x, "intermediate")
    x = blocks.tap(x, "penultimate")
    logits = blocks.classifier(x, num_classes, name="fc")
    return keras.Model(inputs, logits, name=name)


def _basic_block(x, width, stride, name):
    shortcut = x
    if stride != 1 or blocks.channels(x) != width:
        shortcut = blocks.conv(x, width, 1, stride, name=f"{name}_downsample_0")
        shortcut = blocks.batch_norm(shortcut, name=f"{name}_downsample_1")
    x = blocks.conv(x, width, 3, stride, name=f"{name}_conv1")
    x = blocks.batch_norm(x, name=f"{name}_bn1")
    x = blocks.relu(x, name=f"{name}_relu1")
    x = blocks.conv(x, width, 3, name=f"{name}_conv2")
    x = blocks.batch_norm(x, name=f"{name}_bn2")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return blocks.relu(x, name=f"{name}_relu2")
