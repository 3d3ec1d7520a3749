import keras

from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.logit_losses_argument import with_own
from letkd_keras.losses import DKDLoss


@keras.saving.register_keras_serializable("letkd_keras")
class DKD(Distiller):
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022, equation 7).

        loss = CE + warm-up * weight * T^2 (alpha TCKD + beta NCKD)

    Any other distiller adds this loss to its own with
    `logit_losses={"dkd": (letkd_keras.losses.DKDLoss(), 1.0)}`.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits; see `Distiller`.
        student: Functional or sequential `keras.Model` from the same images to logits; trained in
            place.
        alpha: Weight of the target-class part; 1 in the paper.
        beta: Weight of the non-target-class part; 1 to 8 in the paper, by the teacher: 2 for the
            narrow ResNets, 6 for a wide ResNet with a wide ResNet as its teacher, 8 for the others.
        temperature: T; 4 in the paper.
        weight: Weight of both parts together.
        standardize_logits: Whether logits are standardized first; see `DKDLoss`.
        logit_losses: Further losses on the logits; see `Distiller`.
        **kwargs: Options of `Distiller`. `warm_up_steps` is 20 of 240 epochs in the paper, whose
            program raises the weight epoch by epoch.

    Raises:
        ValueError: As `Distiller` and `DKDLoss`.
    """

    def __init__(
        self,
        teacher,
        student,
        *,
        alpha=1.0,
        beta=8.0,
        temperature=4.0,
        weight=1.0,
        standardize_logits=False,
        logit_losses=None,
        **kwargs,
    ):
        loss = DKDLoss(alpha, beta, temperature, standardize_logits)
        super().__init__(
            teacher,
            student,
            logit_losses=with_own("dkd", loss, weight, logit_losses),
            **kwargs,
        )

    def get_config(self):
        config, loss = super().get_config(), self.logit_losses["dkd"]
        del config["logit_losses"]["dkd"]
        return {
            **config,
            "alpha": loss.alpha,
            "beta": loss.beta,
            "temperature": loss.temperature,
            "weight": self.distillation_weights["dkd"],
            "standardize_logits": loss.standardize_logits,
        }
