import keras
import pytest
from keras.distillation import LogitsDistillation
from logit_cases import LABELS, STUDENT, TEACHER, assert_agrees, kl

from letkd_keras.losses.logits_distillation import LogitsDistillationLoss


@pytest.mark.parametrize("inner", ["kl_divergence", keras.losses.KLDivergence()])
def test_a_kl_divergence_is_that_of_the_softened_probabilities(inner):
    assert_agrees(LogitsDistillationLoss(3.0, inner), lambda t, s: 9 * kl(t / 3, s / 3))


@pytest.mark.parametrize("inner", ["mse", keras.losses.MeanSquaredError()])
def test_other_inner_losses_are_those_of_keras(inner):
    value = LogitsDistillationLoss(2.0, inner)((TEACHER, LABELS), STUDENT)
    expected = LogitsDistillation(2.0, inner).compute_loss(TEACHER, STUDENT)
    assert float(value) == pytest.approx(float(expected))


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), "3"])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a finite number greater than 0"):
        LogitsDistillationLoss(temperature=temperature)
