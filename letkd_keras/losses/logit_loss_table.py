"""The table of losses on logits, by name, with the settings of their papers."""

import inspect
from dataclasses import dataclass, field

from letkd_keras.errors import did_you_mean
from letkd_keras.losses.dist import DISTLoss
from letkd_keras.losses.dkd import DKDLoss
from letkd_keras.losses.kd import KDLoss
from letkd_keras.losses.rld import RLDLoss
from letkd_keras.losses.wttm import WTTMLoss

# Epochs of the papers' trainings on CIFAR-100, which `warm_up_epochs` counts from.
_EPOCHS = 240


@dataclass(frozen=True)
class LogitLossRow:
    """A row of the table.

    Attributes:
        name: Name of the loss.
        title: What a table of results calls it.
        paper: Citation of its paper.
        loss: Its `keras.losses.Loss` class.
        options: Options of that class that differ from its defaults.
        weight: Weight of the loss on CIFAR-100.
        task_weight: Weight of the cross-entropy beside it, where it is the only other loss.
        warm_up_epochs: Epochs, of 240, in which `weight` grows linearly from 0.
    """

    name: str
    title: str
    paper: str
    loss: type
    options: dict = field(default_factory=dict)
    weight: float = 1.0
    task_weight: float = 1.0
    warm_up_epochs: int = 0

    @property
    def warm_up_fraction(self):
        """Fraction of the training in which `weight` grows linearly from 0."""
        return self.warm_up_epochs / _EPOCHS

    def settings(self):
        """The loss's own options with their values, those of all Keras losses left out."""
        config = self.build().get_config()
        return {name: config[name] for name in _options(self.loss) if name not in _OF_ALL_LOSSES}

    def build(self, **options):
        """The loss.

        Args:
            **options: Options of the loss's class, in preference to the row's.

        Raises:
            ValueError: If the class has no such option, or refuses its value.
        """
        known = _options(self.loss)
        for option in options:
            if option not in known:
                raise ValueError(
                    f"The options of the loss {self.name} are {', '.join(known)}. "
                    f"Received: {option}={options[option]}{did_you_mean(option, known) or '.'}"
                )
        return self.loss(**{"name": self.name.replace("-", "_"), **self.options, **options})


def _options(loss):
    return tuple(inspect.signature(loss).parameters)


_OF_ALL_LOSSES = ("reduction", "name", "dtype")
_KD = "Hinton et al., Distilling the Knowledge in a Neural Network, 2015"
_DKD = "Zhao et al., Decoupled Knowledge Distillation, CVPR 2022"
_LS = "Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024"
_DIST = "Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022"
_WTTM = "Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024"
_RLD = "Sun et al., Knowledge Distillation with Refined Logits, ICCV 2025"
_STANDARDIZED = {"standardize_logits": True, "temperature": 2.0}

_ROWS = (
    # RepDistiller's weights.
    LogitLossRow("kd", "KD", _KD, KDLoss, weight=0.9, task_weight=0.1),
    # With logit standardization each loss counts nine times and the cross-entropy as before.
    LogitLossRow("kd-ls", "KD + LS", _LS, KDLoss, _STANDARDIZED, weight=9.0, task_weight=0.1),
    LogitLossRow("dkd", "DKD", _DKD, DKDLoss, warm_up_epochs=20),
    LogitLossRow("dkd-ls", "DKD + LS", _LS, DKDLoss, _STANDARDIZED, weight=9.0, warm_up_epochs=20),
    # The settings of PCKA's program, which compares with DIST on CIFAR-100.
    LogitLossRow("dist", "DIST", _DIST, DISTLoss, {"beta": 2.0, "gamma": 2.0, "temperature": 4.0}),
    # The paper sets power and weight by the pair. These are those of the authors' example of WTTM.
    LogitLossRow("wttm", "WTTM", _WTTM, WTTMLoss, {"power": 0.2}, weight=4.0),
    LogitLossRow("rld", "RLD", _RLD, RLDLoss, warm_up_epochs=20),
)
LOGIT_LOSSES = {row.name: row for row in _ROWS}


def logit_loss(name, /, **options):
    """A loss of the student's logits against the teacher's, by name.

    It is called as `loss((teacher_logits, labels), student_logits, sample_weight)`, with integer
    labels [B] or [B, 1], or one-hot or mixed labels [B, classes]. Its value is a mean over the
    batch, includes the temperature squared and no outer weight.

    Example:
        ```python
        loss = letkd_keras.losses.logit_loss("dkd", beta=2.0)
        ```

    Args:
        name: Name of the loss: a key of `letkd_keras.losses.LOGIT_LOSSES`.
        **options: Options of its class; those not given are the paper's for CIFAR-100.

    Returns:
        A `keras.losses.Loss`.

    Raises:
        ValueError: If there is no such loss, or the loss has no such option.
    """
    if not isinstance(name, str) or name not in LOGIT_LOSSES:
        raise ValueError(
            f"`name` must be one of {', '.join(LOGIT_LOSSES)}. "
            f"Received: name={name}{did_you_mean(name, LOGIT_LOSSES) or '.'}"
        )
    return LOGIT_LOSSES[name].build(**options)
