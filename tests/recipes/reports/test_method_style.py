from letkd_keras.commands import palette
from letkd_keras.losses import LOGIT_LOSSES
from letkd_keras.recipes.experiments import methods
from letkd_keras.recipes.reports import method_style


def test_every_method_has_its_own_color_and_line():
    names = [*methods.METHODS, "teacher"]
    styles = [tuple(method_style.style(name).values()) for name in names]
    assert len(set(styles)) == len(names)


def test_every_added_loss_has_a_line_of_its_own():
    lines = [method_style.style(f"letkd2+{loss}")["linestyle"] for loss in LOGIT_LOSSES]
    assert len({*lines, "-"}) == len(LOGIT_LOSSES) + 1


def test_an_added_loss_changes_the_line_only():
    plain, combined = method_style.style("letkd2"), method_style.style("letkd2+kd")
    assert plain["color"] == combined["color"] == palette.BLUE
    assert plain["linestyle"] != combined["linestyle"]


def test_titles_are_those_of_the_tables():
    assert method_style.title("letkd2+kd") == methods.title("letkd2+kd") == "letKD-2 + KD"
    assert method_style.title("teacher") == "teacher"


def test_categories_have_different_colors():
    for count in (1, 8, 12, 100):
        assert len(set(palette.category_colors(count))) == count
