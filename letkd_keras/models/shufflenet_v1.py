import keras

from letkd_keras.layers.channel_shuffle import ChannelShuffle
from letkd_keras.models import blocks

_GROUPS = 3
_STEM = 24
_STAGES = ((240, 4), (480, 8), (960, 4))  # channels, units


def shufflenet_v1(num_classes, input_shape, name):
    """ShuffleNet of three groups for small images (Zhang et al. 2018; RepDistiller's variant).

    1x1 stem without max pooling, three stages of stride 2. A unit is a grouped 1x1 convolution,
    channel shuffle, 3x3 depthwise and a grouped 1x1; a stage's first unit concatenates the
    average-pooled input, the others add theirs.

    Args:
        num_classes: Number of classes.
        input_shape: `(height, width, channels)`, or channels first if Keras is set so.
        name: Name of the model.

    Returns:
        A functional `keras.Model`. Its layer `intermediate` is the last stage's first unit,
        `penultimate` its last, `stage1` to `stage3` are the last units of the stages; all are
        outputs of a ReLU.
    """
    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv(inputs, _STEM, 1, name="conv1")
    x = blocks.batch_norm(x, name="bn1")
    x = blocks.relu(x, name="relu")
    for stage, (width, units) in enumerate(_STAGES, start=1):
        for unit in range(units):
            x = _unit(x, width, 1 if unit else 2, name=f"layer{stage}_{unit}")
            if stage == len(_STAGES) and unit == 0:
                x = blocks.endpoint(x, "intermediate")
        x = blocks.endpoint(x, f"stage{stage}")
    x = blocks.endpoint(x, "penultimate")
    logits = blocks.classifier(x, num_classes, name="linear")
    return keras.Model(inputs, logits, name=name)


def _unit(x, width, stride, name):
    inputs = x
    # The stem is too thin to be cut into groups.
    first_groups = 1 if blocks.channels(inputs) == _STEM else _GROUPS
    if stride == 2:
        width -= blocks.channels(inputs)  # the pooled input makes up the rest
    bottleneck = width // 4
    x = blocks.conv(x, bottleneck, 1, groups=first_groups, name=f"{name}_conv1")
    x = blocks.batch_norm(x, name=f"{name}_bn1")
    x = blocks.relu(x, name=f"{name}_relu1")
    if first_groups > 1:
        x = ChannelShuffle(first_groups, name=f"{name}_shuffle1")(x)
    x = blocks.depthwise_conv(x, 3, stride, name=f"{name}_conv2")
    x = blocks.batch_norm(x, name=f"{name}_bn2")
    x = blocks.relu(x, name=f"{name}_relu2")
    x = blocks.conv(x, width, 1, groups=_GROUPS, name=f"{name}_conv3")
    x = blocks.batch_norm(x, name=f"{name}_bn3")
    if stride == 2:
        x = blocks.concatenate([x, _average_pool(inputs, f"{name}_shortcut")], name=f"{name}_cat")
    else:
        x = keras.layers.Add(name=f"{name}_add")([x, inputs])
    return blocks.relu(x, name=f"{name}_relu3")


def _average_pool(x, name):
    # As in PyTorch, the zeros around the map count: at an edge the sum is still divided by nine.
    x = blocks.pad(x, 1, name=f"{name}_pad")
    return keras.layers.AveragePooling2D(3, 2, name=name)(x)
