"""The optimizer and schedules of the published results, with PyTorch's meaning."""

from letkd_keras.optimizers.schedules import epoch_decay, scale_milestones
from letkd_keras.optimizers.torch_sgd import TorchSGD

__all__ = ["TorchSGD", "epoch_decay", "scale_milestones"]
