import pytest

from letkd_keras.recipes.experiments import remedies as module
from letkd_keras.recipes.experiments.remedies import remedies
from letkd_keras.recipes.trainings.schedule import Schedule


@pytest.mark.parametrize(
    ("settings", "option", "expected"),
    [
        (
            {},
            "--learning-rate",
            "Give --learning-rate 0.005 (a tenth), or --clip-norm 1, or --optimizer adamw "
            "--learning-rate 0.001, with another --out.",
        ),
        (
            {"clip_norm": 5.0},
            "--teacher-learning-rate",
            "Give --teacher-learning-rate 0.005 (a tenth), or --optimizer adamw "
            "--teacher-learning-rate 0.001, with another --out.",
        ),
        (
            {"optimizer": "adamw"},
            "--learning-rate",
            "Give --learning-rate 0.005 (a tenth), or --clip-norm 1, with another --out.",
        ),
        (  # AdamW is refused with this option
            {"kd_learning_rate_factor": 3.0, "clip_norm": 1.0},
            "--learning-rate",
            "Give --learning-rate 0.005 (a tenth), with another --out.",
        ),
        ({"optimizer": "adamw"}, None, "Give --clip-norm 1, with another --out."),
        ({"optimizer": "adamw", "clip_norm": 1.0}, None, None),
    ],
)
def test_options_with_values_that_were_not_given(settings, option, expected):
    assert remedies(Schedule(3, 0.05, (), 16, **settings), option) == expected


def test_the_rate_of_the_option_where_the_schedule_has_another():
    schedule = Schedule(3, 0.05, (), 16).quantization_aware(2)
    assert remedies(schedule, "--learning-rate", 0.05).startswith("Give --learning-rate 0.005 (")


def test_a_scaled_rate_is_advised_as_it_is_typed():
    """AdamW is refused with `--scale-learning-rate`."""
    schedule = Schedule(3, 0.05, (), 512, clip_norm=1.0).scaled_from(64)
    assert schedule.learning_rate == 0.4
    advice = "Give --learning-rate 0.005 (a tenth), with another --out."
    assert remedies(schedule, "--learning-rate") == advice
    assert remedies(schedule.quantization_aware(2), "--learning-rate", 0.4) == advice


@pytest.mark.parametrize(("group", "function"), [("sharing", "devices"), ("gpus", "used_together")])
def test_clipping_is_not_advised_where_it_would_be_refused(group, function, monkeypatch):
    schedule = Schedule(3, 0.05, (), 16)
    assert "--clip-norm" in remedies(schedule, "--learning-rate")
    monkeypatch.setattr(getattr(module, group), function, lambda: 2)
    assert "--clip-norm" not in remedies(schedule, "--learning-rate")
