"""The benchmark's networks for small images in PyTorch, under the names of their checkpoints."""

import functools

import torch.nn.functional as F
from torch import cat, nn, no_grad


class Network(nn.Module):
    """What all networks share: blocks one after the other, with letKD's two taps among them.

    A subclass has `start` and `finish` (what comes before and after the blocks), `stages` (names of
    sequences of blocks), `tapped` (which of them begins with the intermediate tap) and the linear
    `head`.
    """

    tapped = -1

    def forward(self, x, intermediate=lambda x: x, penultimate=lambda x: x):
        """Logits [B, classes] of images [B, 3, H, W].

        Args:
            x: Images.
            intermediate: Function of the feature map after the tapped stage's first block, whose
                result the next block reads.
            penultimate: Function of the last feature map, whose result is averaged.
        """
        x = self.start(x)
        for name in self.stages:
            for number, block in enumerate(self.blocks_of(name)):
                x = block(x)
                if name == self.stages[self.tapped] and number == 0:
                    x = intermediate(x)
        x = penultimate(self.finish(x))
        return self.head(x.mean((2, 3)))

    def blocks_of(self, stage):
        return self.get_submodule(stage)

    def start(self, x):
        return F.relu(self.bn1(self.conv1(x)))

    def finish(self, x):
        return x


def _conv(inputs, outputs, kernel, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


class _ResidualBlock(nn.Module):
    """`convolutions` (outputs, kernel, stride), each with BN, ReLU between and after the sum."""

    def __init__(self, inputs, convolutions, shortcut):
        super().__init__()
        stride, outputs = 1, inputs
        for number, (width, kernel, conv_stride) in enumerate(convolutions, start=1):
            self.add_module(f"conv{number}", _conv(outputs, width, kernel, conv_stride))
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
            stride, outputs = stride * conv_stride, width
        self.count = len(convolutions)
        self.shortcut_name = None
        if stride > 1 or inputs != outputs:
            self.shortcut_name = shortcut
            projection = _conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            self.add_module(shortcut, nn.Sequential(*projection))

    def forward(self, x):
        out = x
        for number in range(1, self.count + 1):
            conv, bn = self.get_submodule(f"conv{number}"), self.get_submodule(f"bn{number}")
            out = bn(conv(out))
            if number < self.count:
                out = F.relu(out)
        if self.shortcut_name:
            x = self.get_submodule(self.shortcut_name)(x)
        return F.relu(out + x)


class ResNet(Network):
    """The three-stage residual network of depth 6n + 2."""

    stages = ("layer1", "layer2", "layer3")

    def __init__(self, depth, classes):
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 16, 3), nn.BatchNorm2d(16)
        channels = 16
        for stage, width in zip(self.stages, (16, 32, 64), strict=True):
            blocks = []
            for number in range((depth - 2) // 6):
                stride = 2 if number == 0 and width > 16 else 1
                convolutions = [(width, 3, stride), (width, 3, 1)]
                blocks.append(_ResidualBlock(channels, convolutions, "downsample"))
                channels = width
            self.add_module(stage, nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def head(self, x):
        return self.fc(x)


class ResNet50(Network):
    """ResNet-50 with a 3x3 stem and no max pooling."""

    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 64, 3), nn.BatchNorm2d(64)
        channels = 64
        for stage, width, count in zip(self.stages, (64, 128, 256, 512), (3, 4, 6, 3), strict=True):
            blocks = []
            for number in range(count):
                stride = 2 if number == 0 and width > 64 else 1
                convolutions = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
                blocks.append(_ResidualBlock(channels, convolutions, "shortcut"))
                channels = 4 * width
            self.add_module(stage, nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, classes)

    def head(self, x):
        return self.linear(x)


class _WideBlock(nn.Module):
    """Pre-activation block; the shortcut convolves the activated input."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3)
        self.convShortcut = _conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x):
        out = F.relu(self.bn1(x))
        if self.convShortcut is not None:
            x = self.convShortcut(out)
        out = self.conv2(F.relu(self.bn2(self.conv1(out))))
        return x + out


class WideResNet(Network):
    """Wide residual network of depth 6n + 4."""

    stages = ("block1", "block2", "block3")

    def __init__(self, depth, factor, classes):
        super().__init__()
        self.conv1 = _conv(3, 16, 3)
        channels = 16
        for stage, width in zip(self.stages, (16, 32, 64), strict=True):
            blocks = []
            for number in range((depth - 4) // 6):
                stride = 2 if number == 0 and width > 16 else 1
                blocks.append(_WideBlock(channels, width * factor, stride))
                channels = width * factor
            self.add_module(stage, nn.ModuleDict({"layer": nn.Sequential(*blocks)}))
        self.bn1 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)

    def blocks_of(self, stage):
        return self.get_submodule(f"{stage}.layer")

    def start(self, x):
        return self.conv1(x)

    def finish(self, x):
        return F.relu(self.bn1(x))

    def head(self, x):
        return self.fc(x)


class _ShuffleBlock(nn.Module):
    groups = 3

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride = stride
        if stride == 2:
            outputs -= inputs
        width = outputs // 4
        self.first_groups = 1 if inputs == 24 else self.groups
        self.conv1 = _conv(inputs, width, 1, groups=self.first_groups)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride, groups=width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, outputs, 1, groups=self.groups)
        self.bn3 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.channel_shuffle(out, self.first_groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return F.relu(cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], 1))
        return F.relu(out + x)


class ShuffleNetV1(Network):
    """ShuffleNet of three groups with a 1x1 stem."""

    stages = ("layer1", "layer2", "layer3")

    def __init__(self, classes):
        super().__init__()
        self.conv1, self.bn1 = _conv(3, 24, 1), nn.BatchNorm2d(24)
        channels = 24
        for stage, width, count in zip(self.stages, (240, 480, 960), (4, 8, 4), strict=True):
            blocks = []
            for number in range(count):
                blocks.append(_ShuffleBlock(channels, width, 1 if number else 2))
                channels = width
            self.add_module(stage, nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, classes)

    def head(self, x):
        return self.linear(x)


def _conv_bn_relu(*convolution, **options):
    conv = _conv(*convolution, **options)
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]


class _InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        width = inputs * expansion
        self.conv = nn.Sequential(
            *_conv_bn_relu(inputs, width, 1),
            *_conv_bn_relu(width, width, 3, stride, groups=width),
            _conv(width, outputs, 1),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(Network):
    """MobileNetV2 of width 0.5, expansion 6, for 32x32 images."""

    stages = tuple(f"blocks.{stage}" for stage in range(7))
    tapped = 5
    table = (  # expansion, channels, blocks, stride
        (1, 8, 1, 1),
        (6, 12, 2, 1),
        (6, 16, 3, 2),
        (6, 32, 4, 2),
        (6, 48, 3, 1),
        (6, 80, 3, 2),
        (6, 160, 1, 1),
    )

    def __init__(self, classes):
        super().__init__()
        self.conv1 = nn.Sequential(*_conv_bn_relu(3, 16, 3, 2))
        self.blocks = nn.ModuleList()
        channels = 16
        for expansion, width, count, stride in self.table:
            blocks = []
            for number in range(count):
                block_stride = 1 if number else stride
                blocks.append(_InvertedResidual(channels, width, block_stride, expansion))
                channels = width
            self.blocks.append(nn.Sequential(*blocks))
        self.conv2 = nn.Sequential(*_conv_bn_relu(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Linear(1280, classes))

    def start(self, x):
        return self.conv1(x)

    def finish(self, x):
        return self.conv2(x)

    def head(self, x):
        return self.classifier(x)


_NETWORKS = {
    "resnet20": functools.partial(ResNet, 20),
    "resnet56": functools.partial(ResNet, 56),
    "resnet50": ResNet50,
    "wrn40_2": functools.partial(WideResNet, 40, 2),
    "snv1": ShuffleNetV1,
    "mnv2": MobileNetV2,
}


def build(name, classes=100):
    """A network by the name it has in `letkd_keras.models`."""
    return _NETWORKS[name](classes=classes)


def tap_shapes(network, images):
    """Shapes [B, C, H, W] of a network's two taps, by name; it is left in inference mode."""
    shapes = {}

    def note(level):
        return lambda x: shapes.setdefault(level, x.shape) and x

    network.eval()
    with no_grad():
        network(images, **{level: note(level) for level in ("intermediate", "penultimate")})
    return shapes
