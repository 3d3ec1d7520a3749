import pytest

from letkd_keras.recipes import methods


def test_unknown_methods_are_refused_and_those_there_are_listed():
    with pytest.raises(ValueError, match=r"one of student, kd, .*letkd2.*Did you mean letkd2\?"):
        methods.check("letkd3")


@pytest.mark.parametrize(
    ("names", "levels"),
    [
        (("student", "kd"), ()),
        (("kd", "letkd1"), ("penultimate",)),
        (("letkd2", "quest"), ("penultimate", "intermediate")),
    ],
)
def test_prototypes_are_fitted_for_the_levels_that_a_method_needs(names, levels):
    assert methods.levels(names) == levels
