import keras

from letkd_keras.distillers.compatibility import matching_models
from letkd_keras.distillers.feature_layers import compared_layers
from letkd_keras.distillers.feature_maps import (
    FeatureMeanSquaredError,
    channels_last,
    check_feature_map,
    on_one_grid,
)
from letkd_keras.distillers.fitnet import regressor_of
from letkd_keras.distillers.letkd import LetKD
from letkd_keras.errors import argument_renamed
from letkd_keras.ranges import non_negative_number


@keras.saving.register_keras_serializable("letkd_keras")
class HintedLetKD(LetKD):
    """FitNet and a supervised KD layer (letKD, supplement, Table 6).

        loss = CE + hint_weight * mean (f_T - r(f_S))^2 + penultimate_weight * KL_penultimate

    The hint is `FitNet`'s own, at the ends of stage 2; the KD layer is that of letKD-1, after the
    student's penultimate layer. The same without supervision is a `FitNet` on a student with a KD
    layer (`insert_kd_layers`).

    Args:
        teacher: As in `LetKD`.
        student: As in `LetKD`.
        prototypes: As in `LetKD`.
        levels: As in `LetKD`; by default the penultimate level alone.
        student_hint_layer: The student's guided layer. `None` for the end of its second stage.
        teacher_hint_layer: The teacher's hint layer. `None` for the end of its second stage.
        hint_weight: Weight of the hint; 100 as in `FitNet`.
        **kwargs: Options of `LetKD`.

    Raises:
        ValueError: As `LetKD` and `FitNet`.
    """

    def __init__(
        self,
        teacher,
        student,
        prototypes=None,
        *,
        levels=("penultimate",),
        student_hint_layer=None,
        teacher_hint_layer=None,
        hint_weight=100.0,
        **kwargs,
    ):
        # A distiller that is rebuilt from its configuration gets the layers from there.
        if prototypes is not None:
            teacher, student = matching_models(teacher, student)
            given = (teacher_hint_layer, student_hint_layer)
            kwargs["teacher_layers"], kwargs["student_layers"] = compared_layers(
                teacher, student, *(name and (name,) for name in given), "second"
            )
        with (
            argument_renamed("student_layers", "student_hint_layer"),
            argument_renamed("teacher_layers", "teacher_hint_layer"),
        ):
            super().__init__(
                teacher,
                student,
                prototypes,
                levels=levels,
                loss_weights={"hint": non_negative_number.check(hint_weight, "hint_weight")},
                **kwargs,
            )
        self.student_hint_layer = self.student_layers[-1]
        self.teacher_hint_layer = self.teacher_layers[-1]
        student_shape, teacher_shape = self.student_shapes[-1], self.teacher_shapes[-1]
        check_feature_map(student_shape, self.student_hint_layer, "student_hint_layer")
        check_feature_map(teacher_shape, self.teacher_hint_layer, "teacher_hint_layer")
        self.regressor = regressor_of(student_shape, teacher_shape)
        self.hint_error = FeatureMeanSquaredError(name="hint_error")

    def compute_distillation_losses(self, student_outputs, teacher_outputs, sample_weight=None):
        student, teacher = (
            channels_last(outputs["features"][-1]) for outputs in (student_outputs, teacher_outputs)
        )
        regressed, teacher = on_one_grid(self.regressor(student, training=True), teacher)
        return {
            **super().compute_distillation_losses(student_outputs, teacher_outputs, sample_weight),
            "hint": self.hint_error(teacher, regressed, sample_weight),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "student_hint_layer": self.student_hint_layer,
            "teacher_hint_layer": self.teacher_hint_layer,
            "hint_weight": self.distillation_weights["hint"],
        }
