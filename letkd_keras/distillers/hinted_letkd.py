import keras

from letkd_keras.distillers.feature_maps import (
    FeatureMeanSquaredError,
    channels_last,
    channels_last_shape,
)
from letkd_keras.distillers.fitnet import regressor_of
from letkd_keras.distillers.letkd import LetKD
from letkd_keras.functional.graph import output_of
from letkd_keras.functional.insertion import TrainingGraph


@keras.saving.register_keras_serializable("letkd_keras")
class HintedLetKD(LetKD):
    """FitNet through a supervised KD layer (letKD, supplement, Table 6).

        loss = CE + hint_weight * mean (f_T - r(x_hat))^2 + intermediate_weight * KL_intermediate

    `FitNet` on what the intermediate KD layer puts out. The same without supervision is a `FitNet`
    on a student with a KD layer.

    Args:
        student: As in `LetKD`.
        teacher: As in `LetKD`; the hint is its layer that the intermediate prototypes are of.
        prototypes: As in `LetKD`.
        hint_weight: Weight of the hint; 100 as in `FitNet`.
        hint_shape: Shape (height, width, channels) of the teacher's layer; needed only without a
            teacher.
        **kwargs: Options of `LetKD`. `penultimate` is `None` unless given.

    Raises:
        ValueError: As `LetKD` and `FitNet`.
    """

    def __init__(
        self,
        student,
        teacher=None,
        prototypes=None,
        *,
        penultimate=None,
        hint_weight=100.0,
        hint_shape=None,
        **kwargs,
    ):
        super().__init__(student, teacher, prototypes, penultimate=penultimate, **kwargs)
        if "intermediate" not in self.taps:
            raise ValueError("`intermediate` must name the student's layer that takes the hint.")
        self.distillation_weights["hint"] = float(hint_weight)
        self.loss_trackers["hint"] = keras.metrics.Mean(name="hint")
        kd_layers = {level: self.student.get_layer(f"kd_{level}") for level in self.taps}
        self.training_graph = TrainingGraph(
            self.student, kd_layers, self.pools, features=("intermediate",)
        )
        if self.supervision is not None:
            hint_shape = channels_last_shape(self.supervision.teacher.tapped.shapes["intermediate"])
        self.hint_shape = tuple(hint_shape)
        features = output_of(self.student, kd_layers["intermediate"])
        self.regressor = regressor_of(channels_last_shape(features.shape[1:]), self.hint_shape)
        self.hint_error = FeatureMeanSquaredError(name="hint_error")

    def distillation_losses(self, learned, taught, sample_weight=None):
        regressed = self.regressor(learned["intermediate_features"], training=True)
        theirs = channels_last(taught["features"]["intermediate"])
        hint = self.hint_error(theirs, regressed, sample_weight)
        return {**super().distillation_losses(learned, taught, sample_weight), "hint": hint}

    def get_config(self):
        return {
            **super().get_config(),
            "hint_weight": self.distillation_weights["hint"],
            "hint_shape": self.hint_shape,
        }
