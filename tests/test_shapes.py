import pytest

from letkd_keras.shapes import grid_ratio, shapes_agree


@pytest.mark.parametrize(
    ("first", "second", "agree"),
    [
        ((32, 32, 3), (32, 32, 3), True),
        ((None, None, 3), (32, 48, 3), True),
        ((None, 32, 3), (32, None, 3), True),
        ((None, 32, 3), (32, 48, 3), False),
        ((32, 32, 3), (32, 32, 1), False),
        ((32, 32, 3), (32, 32), False),
        ((), (), True),
        ((), (3,), False),
    ],
)
def test_shapes_agree_where_both_are_known(first, second, agree):
    assert shapes_agree(first, second) is agree
    assert shapes_agree(second, first) is agree


def test_ratios_of_grids():
    assert grid_ratio((8, 6), (4, 3)) == 2
    assert grid_ratio((8, 8), (8, 8)) == 1
    assert grid_ratio((8, 8), (4, 8)) is None
    assert grid_ratio((8, 8), (3, 3)) is None
    assert grid_ratio((4, 4), (8, 8)) is None
