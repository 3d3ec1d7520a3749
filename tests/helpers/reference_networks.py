"""Networks rebuilt from their published definition with the module names of their checkpoints.

Those of torchvision, which itself is no dependency, and the MobileNetV1 of the distillation
literature.
"""

import torch
from torch import nn


def _downsample(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class _Residual(nn.Module):
    """Convolutions `conv1`, `bn1`, ... with ReLU between them, and the shortcut `downsample`."""

    def __init__(self, inputs, convolutions, stride):
        super().__init__()
        for number, (width, kernel, conv_stride) in enumerate(convolutions, start=1):
            previous = inputs if number == 1 else convolutions[number - 2][0]
            conv = nn.Conv2d(previous, width, kernel, conv_stride, kernel // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
        self.count = len(convolutions)
        self.downsample = _downsample(inputs, convolutions[-1][0], stride)

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.count:
                y = y.relu()
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    def __init__(self, depth, num_classes):
        super().__init__()
        units = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in enumerate(units, start=1):
            width = 32 * 2**stage
            blocks = []
            for unit in range(count):
                stride = 2 if stage > 1 and unit == 0 else 1
                convolutions = [(width, 3, stride), (width, 3, 1)]
                if depth == 50:
                    convolutions = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
                blocks.append(_Residual(channels, convolutions, stride))
                channels = convolutions[-1][0]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def _conv_bn_relu(inputs, outputs, kernel, stride=1, groups=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class _InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        hidden = inputs * expansion
        expand = [_conv_bn_relu(inputs, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        features = [_conv_bn_relu(3, 32, 3, 2)]
        channels = 32
        for expansion, width, units, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for unit in range(units):
                unit_stride = 1 if unit else stride
                features.append(_InvertedResidual(channels, width, unit_stride, expansion))
                channels = width
        features.append(_conv_bn_relu(channels, 1280, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class MobileNetV1(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        widths = (32, 64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
        strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
        conv = nn.Conv2d(3, 32, 3, 2, 1, bias=False)
        units = [nn.Sequential(conv, nn.BatchNorm2d(32), nn.ReLU())]
        for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            units.append(
                nn.Sequential(
                    nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                    nn.BatchNorm2d(inputs),
                    nn.ReLU(),
                    nn.Conv2d(inputs, outputs, 1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU(),
                )
            )
        self.model = nn.Sequential(*units)
        self.fc = nn.Linear(1024, num_classes)

    def forward(self, x):
        return self.fc(self.model(x).mean((2, 3)))


def randomised(network, seed=0):
    """The network in inference mode with batch statistics that are not the trivial ones.

    Kernels are of He's scale: PyTorch's own start lets the signal die out on the way, and with it
    what the bounds of rectifiers do.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif name.endswith(("running_mean", "bias")):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
        elif value.ndim > 1:
            scale = (2 / value[0].numel()) ** 0.5
            value.copy_(scale * torch.randn(value.shape, generator=generator))
    return network.eval()
