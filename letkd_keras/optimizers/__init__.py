"""The optimizer and the schedule of the published results, as in PyTorch, and a warm-up."""

from letkd_keras.optimizers.schedules import WarmUp, epoch_decay, scale_milestones
from letkd_keras.optimizers.torch_sgd import TorchSGD

__all__ = ["TorchSGD", "WarmUp", "epoch_decay", "scale_milestones"]
