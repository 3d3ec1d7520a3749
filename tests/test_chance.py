import pytest

from letkd_keras.chance import is_near_chance


@pytest.mark.parametrize(
    ("classes", "accuracy", "near"),
    [
        # Of two classes, half of the images are guessed, and a tenth of the other half is 5%.
        (2, 0.5, True),
        (2, 0.54, True),
        (2, 0.56, False),
        (10, 0.18, True),
        (10, 0.2, False),
        (100, 0.019, True),
        (100, 0.021, False),
    ],
)
def test_what_is_hardly_better_than_guessing(classes, accuracy, near):
    assert is_near_chance(accuracy, classes) == near
