from functools import partial

import keras

from letkd_keras.models import blocks
from letkd_keras.models.initialization import MOBILENET_V2

# expansion, channels at width 1, units, stride: table 2 of the paper
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LAST = 1280
_INTERMEDIATE = 160  # channels of the stage whose first unit is `intermediate`
# Which rows of the table end a stage for the methods that read several feature maps.
_STAGE_ENDS = {1: "stage1", 2: "stage2", 4: "stage3", 6: "stage4"}

_conv = partial(blocks.conv, initialization=MOBILENET_V2)
_depthwise_conv = partial(blocks.depthwise_conv, initialization=MOBILENET_V2)
_classifier = partial(blocks.classifier, initialization=MOBILENET_V2)


def cifar_mobilenet_v2(width, num_classes, input_shape, name):
    """MobileNetV2 for small images (Sandler et al. 2018; RepDistiller's variant).

    Stage two has stride 1 here, units of expansion 1 expand by a convolution all the same, and
    rectifiers have no upper bound.

    Args:
        width: Width multiplier of everything but the last convolution.
        num_classes: Number of classes.
        input_shape: `(height, width, channels)`, or channels first if Keras is set so.
        name: Name of the model.

    Returns:
        A functional `keras.Model`. Its layer `intermediate` is the first unit of the stage of 160
        times `width` channels (linear, no ReLU), `penultimate` follows the last BN - ReLU. `stage1`
        to `stage4` are the last units of 24, 32, 96 and 320 times `width` channels (linear).
    """
    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = _conv(inputs, int(32 * width), 3, 2, name="conv1_0")
    x = blocks.batch_norm(x, name="conv1_1")
    x = blocks.relu(x, name="conv1_2")
    for stage, (expansion, channels, units, stride) in enumerate(_STAGES):
        for unit in range(units):
            unit_stride = stride if unit == 0 and stage != 1 else 1
            block = f"blocks_{stage}_{unit}"
            layers = [(f"{block}_conv_{i}", f"{block}_conv_{i + 1}") for i in (0, 3, 6)]
            x = _unit(x, expansion, int(channels * width), unit_stride, layers, block, None)
            if channels == _INTERMEDIATE and unit == 0:
                x = blocks.endpoint(x, "intermediate")
        if stage in _STAGE_ENDS:
            x = blocks.endpoint(x, _STAGE_ENDS[stage])
    x = _conv(x, _LAST, 1, name="conv2_0")
    x = blocks.batch_norm(x, name="conv2_1")
    x = blocks.relu(x, name="conv2_2")
    x = blocks.endpoint(x, "penultimate")
    logits = _classifier(x, num_classes, name="classifier_0")
    return keras.Model(inputs, logits, name=name)


def imagenet_mobilenet_v2(num_classes, input_shape, name):
    """MobileNetV2 of width 1 as torchvision defines and names it (Sandler et al. 2018).

    That of `keras.applications` pads strided convolutions at one side and normalizes with epsilon
    1e-3 and momentum 0.999: torchvision's weights do not fit it. Torchvision's dropout before the
    classifier, a training setting, is left out.

    Args:
        num_classes: Number of classes.
        input_shape: `(height, width, channels)`, or channels first if Keras is set so.
        name: Name of the model.

    Returns:
        A functional `keras.Model` with the named layers of `cifar_mobilenet_v2`. That `stage1` to
        `stage4` are the same units as there is a choice of this package: they end on the grids
        where a ResNet's stages end, 1/4 to 1/32 of the image.
    """
    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = _conv(inputs, 32, 3, 2, name="features_0_0")
    x = blocks.batch_norm(x, name="features_0_1")
    x = blocks.relu(x, 6, name="features_0_2")
    block = 0
    for stage, (expansion, channels, units, stride) in enumerate(_STAGES):
        for unit in range(units):
            block += 1
            name_of = f"features_{block}_conv_{{}}".format
            # Each convolution with a rectifier is a module of its own, the last one is not.
            expanding = 1 if expansion > 1 else 0
            layers = [(name_of(f"{i}_0"), name_of(f"{i}_1")) for i in range(expanding + 1)]
            layers.append((name_of(expanding + 1), name_of(expanding + 2)))
            unit_stride = 1 if unit else stride
            x = _unit(x, expansion, channels, unit_stride, layers, f"features_{block}", 6)
            if channels == _INTERMEDIATE and unit == 0:
                x = blocks.endpoint(x, "intermediate")
        if stage in _STAGE_ENDS:
            x = blocks.endpoint(x, _STAGE_ENDS[stage])
    x = _conv(x, _LAST, 1, name="features_18_0")
    x = blocks.batch_norm(x, name="features_18_1")
    x = blocks.relu(x, 6, name="features_18_2")
    x = blocks.endpoint(x, "penultimate")
    logits = _classifier(x, num_classes, name="classifier_1")
    return keras.Model(inputs, logits, name=name)


def _unit(x, expansion, width, stride, layers, name, max_value):
    """Inverted residual; `layers`: (convolution, BN) names, expanding or none, depthwise, last."""
    shortcut = x
    *expand, depthwise, project = layers
    for conv, bn in expand:
        x = _conv(x, expansion * blocks.channels(x), 1, name=conv)
        x = blocks.batch_norm(x, name=bn)
        x = blocks.relu(x, max_value, name=f"{conv}_relu")
    conv, bn = depthwise
    x = _depthwise_conv(x, 3, stride, name=conv)
    x = blocks.batch_norm(x, name=bn)
    x = blocks.relu(x, max_value, name=f"{conv}_relu")
    conv, bn = project
    x = _conv(x, width, 1, name=conv)
    x = blocks.batch_norm(x, name=bn)
    if stride == 1 and blocks.channels(shortcut) == width:
        x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return x
