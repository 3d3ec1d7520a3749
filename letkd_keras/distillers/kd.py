import keras

from letkd_keras.distillers.distiller import Distiller
from letkd_keras.distillers.logit_losses_argument import with_own
from letkd_keras.losses import KDLoss


@keras.saving.register_keras_serializable("letkd_keras")
class KD(Distiller):
    """Knowledge distillation by soft targets (Hinton, Vinyals, Dean 2015, section 2).

        loss = task_weight * CE + weight * T^2 KL(teacher / T || student / T)

    Any other distiller adds this loss to its own with
    `logit_losses={"kd": (letkd_keras.losses.KDLoss(), 1.0)}`.

    Args:
        teacher: Functional or sequential `keras.Model` from images to logits; see `Distiller`.
        student: Functional or sequential `keras.Model` from the same images to logits; trained in
            place.
        temperature: T; 4 in RepDistiller, whose numbers the letKD paper compares with.
        weight: Weight of the distillation loss; 0.9 there.
        task_weight: Weight of the cross-entropy; 0.1 there.
        standardize_logits: Whether logits are standardized first; see `KDLoss`.
        logit_losses: Further losses on the logits; see `Distiller`.
        **kwargs: Options of `Distiller`.

    Raises:
        ValueError: As `Distiller` and `KDLoss`.
    """

    def __init__(
        self,
        teacher,
        student,
        *,
        temperature=4.0,
        weight=0.9,
        task_weight=0.1,
        standardize_logits=False,
        logit_losses=None,
        **kwargs,
    ):
        loss = KDLoss(temperature, standardize_logits)
        super().__init__(
            teacher,
            student,
            task_weight=task_weight,
            logit_losses=with_own("kd", loss, weight, logit_losses),
            **kwargs,
        )

    def get_config(self):
        config, loss = super().get_config(), self.logit_losses["kd"]
        del config["logit_losses"]["kd"]
        return {
            **config,
            "temperature": loss.temperature,
            "weight": self.distillation_weights["kd"],
            "standardize_logits": loss.standardize_logits,
        }
