"""The step of letKD in PyTorch: layers, targets, losses, one call a step."""

import torch
import torch.nn.functional as F
from torch import nn


class CosineConv(nn.Module):
    """1x1 convolution of l2-normalised inputs with l2-normalised filters, times a scale."""

    def __init__(self, inputs, outputs, scale):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1) * (2 / inputs) ** 0.5)
        self.scale = nn.Parameter(torch.tensor([scale]))

    def forward(self, x):
        return self.scale * F.conv2d(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


class KDLayer(nn.Module):
    """Templates, BN, ReLU, values, residual; keeps the scores of its last call."""

    def __init__(self, channels, templates, alpha):
        super().__init__()
        self.templates = CosineConv(channels, templates, 3.0)
        self.bn = nn.BatchNorm2d(templates)
        self.values = CosineConv(templates, channels, 1.0)
        self.alpha = alpha
        self.scores = None

    def forward(self, x):
        self.scores = self.templates(x)
        return x + self.alpha * self.values(F.relu(self.bn(self.scores)))


class PenultimateTargets(nn.Module):
    """Softmax over the negative squared distances to the centres [K, C]."""

    def __init__(self, centers):
        super().__init__()
        self.register_buffer("centers", centers)

    def forward(self, features, labels):
        batch, channels, height, width = features.shape
        points = features.permute(0, 2, 3, 1).reshape(-1, channels)
        targets = torch.softmax(-(torch.cdist(points, self.centers) ** 2), dim=1)
        return targets.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


class IntermediateTargets(nn.Module):
    """Rows of `subclass_scores` of the nearest own sub-class in the space of the LDA.

    Args:
        mean: Of the LDA, [C].
        scalings: Of the LDA, [C, d].
        centers: Sub-class centres [classes * subclasses, d], class by class.
        subclass_scores: [K, K].
        subclasses: Sub-classes per class.
    """

    def __init__(self, mean, scalings, centers, subclass_scores, subclasses=8):
        super().__init__()
        self.register_buffer("projection", scalings.T[:, :, None, None].contiguous())
        self.register_buffer("bias", -mean @ scalings)
        self.register_buffer("centers", centers.reshape(-1, subclasses, centers.shape[1]))
        self.register_buffer("subclass_scores", subclass_scores)
        self.subclasses = subclasses

    def forward(self, features, labels):
        z = F.conv2d(features, self.projection, self.bias)
        batch, components, height, width = z.shape
        z = z.permute(0, 2, 3, 1).reshape(batch, height * width, components)
        nearest = torch.cdist(z, self.centers[labels]).argmin(dim=2)
        rows = self.subclass_scores[nearest + self.subclasses * labels[:, None]]
        return rows.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


class LetKD(nn.Module):
    """Student, KD layers and frozen teacher.

    Args:
        student: `Network`.
        teacher: `Network`.
        layers: Dictionary of `"penultimate"` and maybe `"intermediate"` to `KDLayer`s.
        targets: Dictionary of the same names to the modules of their targets.
        pool: Window of the average pooling of the teacher's features.
    """

    def __init__(self, student, teacher, layers, targets, pool=1):
        super().__init__()
        self.student = student
        self.layers = nn.ModuleDict(layers)
        self.teacher = teacher.requires_grad_(False)
        self.targets = nn.ModuleDict(targets)
        self.pool = pool

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def losses(self, images, labels):
        """Cross-entropy `task` and KL divergence by level, scalars."""
        features = {}
        with torch.no_grad():
            self.teacher(images, **{level: _keep(features, level) for level in self.layers})
            targets = {
                level: self.targets[level](F.avg_pool2d(features[level], self.pool), labels)
                for level in self.layers
            }
        logits = self.student(images, **self.layers)
        losses = {"task": F.cross_entropy(logits, labels)}
        for level, layer in self.layers.items():
            divergence = F.kl_div(
                F.log_softmax(layer.scores, dim=1), targets[level], reduction="none"
            )
            losses[level] = divergence.sum(1).mean()
        return losses

    def parameters_trained(self):
        return [*self.student.parameters(), *self.layers.parameters()]

    def optimizer(self, learning_rate=0.05):
        return torch.optim.SGD(
            self.parameters_trained(),
            lr=learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=5e-4,
        )


def _keep(features, level):
    def keep(x):
        features[level] = x
        return x

    return keep


def train_step(model, optimizer, images, labels):
    """One step on images [B, 3, H, W] and labels [B]; returns the losses."""
    optimizer.zero_grad()
    losses = model.losses(images, labels)
    sum(losses.values()).backward()
    optimizer.step()
    return {name: loss.detach() for name, loss in losses.items()}
