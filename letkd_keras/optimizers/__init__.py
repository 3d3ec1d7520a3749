"""The optimizer and schedules of the published results, with PyTorch's meaning."""

from letkd_keras.optimizers.schedules import epoch_decay, scale_milestones
from letkd_keras.optimizers.sgd import SGD

__all__ = ["SGD", "epoch_decay", "scale_milestones"]
