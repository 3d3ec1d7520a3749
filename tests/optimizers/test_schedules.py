import keras
import numpy as np
import pytest

from letkd_keras.optimizers import WarmUp, epoch_decay, scale_milestones


def test_the_rate_drops_with_the_first_step_of_the_epoch_after_a_milestone():
    schedule = epoch_decay(0.05, (2, 3), steps_per_epoch=4)
    rates = [float(schedule(step)) for step in range(16)]
    np.testing.assert_allclose(rates, [0.05] * 8 + [0.005] * 4 + [0.0005] * 4, rtol=1e-6)


def test_the_published_schedule():
    schedule = epoch_decay(0.05, (150, 180, 210), steps_per_epoch=782)
    ends = {150: (0.05, 0.005), 180: (0.005, 0.0005), 210: (0.0005, 0.00005)}
    for milestone, (before, after) in ends.items():
        assert float(schedule(milestone * 782 - 1)) == pytest.approx(before)
        assert float(schedule(milestone * 782)) == pytest.approx(after)


def test_another_factor_and_no_milestone():
    assert float(epoch_decay(1.0, [1], 1, factor=0.5)(1)) == 0.5
    assert epoch_decay(0.05, (), 10) == 0.05


def test_the_schedule_serialises():
    schedule = epoch_decay(0.05, (2, 3), steps_per_epoch=4)
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    assert [float(again(step)) for step in range(16)] == [float(schedule(s)) for s in range(16)]


@pytest.mark.parametrize(
    ("milestones", "steps", "message"),
    [
        ((3, 2), 4, r"`milestones` must be increasing.*\[3, 2\]"),
        ((2, 2), 4, "`milestones` must be increasing"),
        ((0, 2), 4, "at least 1"),
        ((1.5, 2), 4, "`milestones` must be an integer of at least 1"),
        (("a",), 4, "`milestones` must be an integer of at least 1"),
        (3, 10, r"`milestones` must be a sequence of numbers of epochs\..*milestones=3"),
        ((2, 3), 0, "`steps_per_epoch` must be an integer of at least 1.*steps_per_epoch=0"),
    ],
)
def test_bad_milestones_and_steps_are_refused(milestones, steps, message):
    with pytest.raises(ValueError, match=message):
        epoch_decay(0.05, milestones, steps)


@pytest.mark.parametrize("rate", [0, -0.05, float("nan"), float("inf"), "0.05"])
def test_bad_rates_are_refused(rate):
    with pytest.raises(ValueError, match="`initial_rate` must be a finite number greater than 0"):
        epoch_decay(rate, (2, 3), 4)
    with pytest.raises(ValueError, match="`factor` must be a finite number greater than 0"):
        epoch_decay(0.05, (2, 3), 4, factor=rate)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (240, [150, 180, 210]),
        (24, [15, 18, 21]),
        (480, [300, 360, 420]),
        (8, [5, 6, 7]),
        (2, [1]),  # 1.25, 1.5 and 1.75: the last two would be the end
        (1, []),
    ],
)
def test_milestones_scale_with_the_epochs(epochs, expected):
    scaled = scale_milestones((150, 180, 210), epochs, 240)
    assert scaled == expected
    epoch_decay(0.05, scaled, 10)


def test_the_rate_of_a_warm_up_grows_linearly():
    schedule = WarmUp(epoch_decay(0.1, (2,), steps_per_epoch=10), steps=10)
    rates = [float(schedule(step)) for step in (0, 4, 9, 10, 19, 20, 39)]
    np.testing.assert_allclose(rates, [0.01, 0.05, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    constant = WarmUp(0.1, steps=4)
    np.testing.assert_allclose([float(constant(1)), float(constant(30))], [0.05, 0.1], rtol=1e-6)


@pytest.mark.parametrize("rates", [0.1, epoch_decay(0.1, (2,), steps_per_epoch=10)])
def test_a_warm_up_serialises(rates):
    schedule = WarmUp(rates, steps=10)
    config = keras.optimizers.schedules.serialize(schedule)
    again = keras.optimizers.schedules.deserialize(config)
    assert [float(again(step)) for step in (3, 25)] == [float(schedule(step)) for step in (3, 25)]


def test_a_warm_up_has_a_step():
    with pytest.raises(ValueError, match=r"`steps` must be .*Received: steps=0"):
        WarmUp(0.1, steps=0)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), None])
def test_a_warm_up_refuses_a_bad_rate(rate):
    with pytest.raises(ValueError, match="`schedule` must be a finite number greater than 0"):
        WarmUp(rate, steps=3)
