"""The optimizer and the schedules of the published results, which behave as in PyTorch."""

from letkd_keras.optimizers.schedules import epoch_decay, scale_milestones
from letkd_keras.optimizers.torch_sgd import TorchSGD

__all__ = ["TorchSGD", "epoch_decay", "scale_milestones"]
