import keras

from letkd_keras.models import blocks

# channels and stride of each depthwise-separable unit: table 1 of the paper
_UNITS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)
# Units are counted from 1.
_INTERMEDIATE = 12  # the first of 1024 channels
# The last units on the grids of the four stages of an ImageNet ResNet: no source lists any.
_STAGE_ENDS = {3: "stage1", 5: "stage2", 11: "stage3", 13: "stage4"}


def imagenet_mobilenet_v1(num_classes, input_shape, name):
    """MobileNet (V1) of width 1 (Howard et al. 2017), named as in the distillation literature.

    The student that this literature calls "MobileNetV2" on ImageNet: ReLU without upper bound,
    modules `model.0` to `model.13`. That of `keras.applications` has ReLU6, pads strided
    convolutions at one side and normalizes with epsilon 1e-3.

    Args:
        num_classes: Number of classes.
        input_shape: `(height, width, channels)`, or channels first if Keras is set so.
        name: Name of the model.

    Returns:
        A functional `keras.Model`. Its layer `intermediate` is the first unit of 1024 channels,
        `penultimate` the last; both are outputs of a ReLU. `stage1` to `stage4` are a choice of
        this package: the last unit on each of the grids where a ResNet's stages end, 1/4 to 1/32
        of the image.
    """
    # === Functional Model ===
    inputs = keras.Input(input_shape, name="image")
    x = blocks.conv(inputs, 32, 3, 2, name="model_0_0")
    x = blocks.batch_norm(x, name="model_0_1")
    x = blocks.relu(x, name="model_0_2")
    for number, (width, stride) in enumerate(_UNITS, start=1):
        x = _unit(x, width, stride, name=f"model_{number}")
        if number == _INTERMEDIATE:
            x = blocks.endpoint(x, "intermediate")
        if number in _STAGE_ENDS:
            x = blocks.endpoint(x, _STAGE_ENDS[number])
    x = blocks.endpoint(x, "penultimate")
    logits = blocks.classifier(x, num_classes, name="fc")
    return keras.Model(inputs, logits, name=name)


def _unit(x, width, stride, name):
    x = blocks.depthwise_conv(x, 3, stride, name=f"{name}_0")
    x = blocks.batch_norm(x, name=f"{name}_1")
    x = blocks.relu(x, name=f"{name}_2")
    x = blocks.conv(x, width, 1, name=f"{name}_3")
    x = blocks.batch_norm(x, name=f"{name}_4")
    return blocks.relu(x, name=f"{name}_5")
