"""Sizes before a training, and budgets of KD layers."""

from dataclasses import replace

import keras
import pytest

from letkd_keras.functional import cost_of, insert_kd_layers
from letkd_keras.layers import KDLayer
from letkd_keras.recipes import digits
from letkd_keras.recipes.experiments import sizes
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.preparation import prepare
from letkd_keras.recipes.reports import report

SMALL = "--train-examples 40 --test-examples 20 --batch-size 20 --templates 500"


def _experiment(text=""):
    return experiment_of(digits.parse(f"{SMALL} {text}".split()), digits.SETTINGS)


def _dense(*units):
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Flatten()(inputs)
    for number in units:
        x = keras.layers.Dense(number)(x)
    return keras.Model(inputs, x)


def test_sizes_of_dense_layers_by_hand():
    size = sizes.size_of(_dense(10))
    assert (size.parameters, size.bytes, size.multiply_adds) == (490, 1960, 480)
    assert str(sizes.size_of(_dense(1000, 10))) == (
        "59,010 parameters, 0.24 MB in float32, 0.06 million multiply-adds"
    )


def test_a_network_whose_multiply_adds_are_unknown_has_parameters():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.Reshape((16, 3))(inputs)
    x = keras.layers.GRU(5, reset_after=False)(x)
    size = sizes.size_of(keras.Model(inputs, x))
    assert (size.parameters, size.multiply_adds) == (3 * (3 * 5 + 5 * 5 + 5), None)


@pytest.fixture(scope="module")
def prepared():
    return prepare(_experiment("--methods letkd2 --growth 25%"))


def test_the_budget_is_kept_and_used(prepared):
    student = prepared.student.build(prepared.data, "student")
    before = cost_of(student).parameters
    layers = {
        "penultimate": KDLayer(prepared.templates),
        "intermediate": KDLayer(10 * prepared.subclasses),
    }
    after = cost_of(insert_kd_layers(student, **layers)).parameters
    assert 0.24 < (after - before) / before <= 0.25
    assert prepared.subclasses >= 1 and 8 <= prepared.templates < 500
    measured = prepared.sizes["student_with_kd_layers"]
    assert (measured["parameters"], measured["method"]) == (after, "letkd2")
    # One template more is over the budget.
    layers["penultimate"] = KDLayer(prepared.templates + 1, name="more")
    student = prepared.student.build(prepared.data, "student")
    more = cost_of(insert_kd_layers(student, **layers)).parameters
    assert more - before > 0.25 * before


@pytest.mark.parametrize(("templates", "largest"), [(500, "letkd1"), (20, "letkd_i1")])
def test_the_largest_method_is_measured(templates, largest):
    """8 sub-classes of 10 classes are 80 templates at the intermediate level."""
    experiment = prepare(_experiment(f"--methods letkd_i1 letkd1 --templates {templates}"))
    assert experiment.sizes["student_with_kd_layers"]["method"] == largest


def test_the_config_has_sizes_and_budget(prepared):
    config = prepared.config()
    assert config["growth"] == 0.25
    assert config["sizes"]["teacher"]["parameters"] > config["sizes"]["student"]["parameters"]
    assert config["sizes"]["student"]["bytes"] == 4 * config["sizes"]["student"]["parameters"]
    text = report._sizes(prepared)
    assert "| student with KD layers (letkd2) |" in text
    assert "Growth by the KD layers: at most 25% of the student." in text
    assert "The running statistics of batch normalization are not counted here." in text


@pytest.mark.parametrize("growth", [0.2, 0.5, 1.0])
def test_the_numbers_are_the_same_for_all_methods(growth, prepared):
    """So that methods can be added to a run."""
    student = prepared.student.build(prepared.data, "student")
    asked = replace(prepared, growth=growth, templates=10000, subclasses=50)
    numbers = set()
    for method in ("student", "letkd1", "letkd_i1", "letkd2"):
        experiment = sizes.within_budget(replace(asked, methods=(method,)), student)
        numbers.add((experiment.templates, experiment.subclasses))
    assert len(numbers) == 1
    size = sizes.measure(experiment, student, student)
    added = size["student_with_kd_layers"]["parameters"] - size["student"]["parameters"]
    assert 0.15 < added / size["student"]["parameters"] <= growth
    # Never more templates than were asked for.
    few = replace(experiment, templates=9, subclasses=1, growth=5.0)
    few = sizes.within_budget(few, student)
    assert (few.templates, few.subclasses) == (9, 1)


def test_a_budget_that_is_too_small_is_refused_with_the_smallest(prepared):
    student = prepared.student.build(prepared.data, "student")
    with pytest.raises(ValueError, match=r"`growth` must be at least \d+\.\d% for one inter") as e:
        sizes.within_budget(replace(prepared, growth=0.001), student)
    smallest = float(str(e.value).split("at least ")[1].split("%")[0]) / 100
    allowed = replace(prepared, growth=smallest, templates=500, subclasses=8)
    allowed = sizes.within_budget(allowed, student)
    assert (allowed.templates, allowed.subclasses) == (8, 1)


@pytest.mark.parametrize("option", ["templates", "subclasses"])
def test_a_budget_for_more_templates_than_there_are_features(option):
    numbers = {"templates": 16, "subclasses": 2, option: 100000}
    given = " ".join(f"--{name} {number}" for name, number in numbers.items())
    limit = f", which --growth allows and --{option} can limit$"
    with pytest.raises(ValueError, match=f"`{option}` must be at most the .*{limit}"):
        prepare(_experiment(f"{given} --methods letkd2 --growth 10000%"))
    with pytest.raises(ValueError, match=rf"{option}=100000$"):
        prepare(_experiment(f"{given} --methods letkd2"))


def test_a_budget_that_is_too_small_for_both_levels_is_that_of_the_methods(prepared):
    student = prepared.student.build(prepared.data, "student")
    smallest = {}
    for method in ("letkd1", "letkd2"):
        unusable = replace(prepared, methods=(method,), growth=0.001, templates=500)
        with pytest.raises(ValueError, match="at least") as error:
            sizes.within_budget(unusable, student)
        smallest[method] = float(str(error.value).split("at least ")[1].split("%")[0]) / 100
    growth = sum(smallest.values()) / 2
    small = replace(prepared, methods=("letkd1",), growth=growth, templates=500, subclasses=8)
    letkd1 = sizes.within_budget(small, student)
    assert 8 <= letkd1.templates < 500
    # Another method can be added whose students have no KD layers.
    plain = sizes.within_budget(replace(small, methods=("student",)), student)
    assert plain.templates == letkd1.templates
    with pytest.raises(ValueError, match="for one intermediate template for each class and 8"):
        sizes.within_budget(replace(small, methods=("letkd2",)), student)
    unusable = replace(small, methods=("student",), growth=0.001)
    assert sizes.within_budget(unusable, student) is unusable


def test_half_of_the_budget_is_too_much_where_little_is_left(prepared, monkeypatch):
    """100 parameters, of which the eight fewest penultimate templates need 80."""
    monkeypatch.setattr(sizes, "_costs", lambda *arguments: (0, 10, 10))
    monkeypatch.setattr(sizes, "size_of", lambda model: sizes.Size(1000, 4000, 1))
    experiment = replace(prepared, growth=0.1, templates=500, subclasses=8)
    found = sizes.within_budget(experiment, None)
    assert (found.templates, found.subclasses) == (8, 2)


def test_layers_that_only_supervise_do_not_count(prepared, caplog):
    experiment = replace(prepared, methods=("student", "quest", "kd"), templates=300)
    student = prepared.student.build(prepared.data, "student")
    sizes.within_budget(experiment, student)
    assert "No method leaves KD layers in the student: --growth only limits" in caplog.text
    assert set(sizes.measure(experiment, student, student)) == {"teacher", "student"}


def _warnings(caplog):
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_a_student_that_is_not_smaller_is_warned_about(prepared, caplog):
    student = prepared.student.build(prepared.data, "student")
    with caplog.at_level("INFO", logger="letkd_keras"):
        sizes.measure(prepared, student, student)
    (warning,) = _warnings(caplog)
    assert warning.startswith("The student resnet8 with KD layers has ")
    assert "size of the student with KD layers (letkd2): " in caplog.text
    caplog.clear()
    sizes.measure(replace(prepared, methods=("kd",)), student, student)
    (warning,) = _warnings(caplog)
    assert warning.startswith("The student resnet8 has ")
    caplog.clear()
    teacher = prepared.teacher.build(prepared.data, "teacher")
    sizes.measure(prepared, teacher, student)
    assert not _warnings(caplog)


@pytest.mark.parametrize(
    ("growth", "times", "remedies"),
    [
        (None, 1.0, "a smaller student"),
        (None, 1.2, "a smaller student or fewer --templates"),
        (None, 1.3, "a smaller student, fewer --templates or --growth 25%"),
        (0.25, 1.0, "a smaller student"),
        (0.25, 1.2, "a smaller student or a smaller --growth"),
    ],
)
def test_only_what_makes_the_student_smaller_is_advised(
    growth, times, remedies, prepared, caplog, monkeypatch
):
    """The student without its KD layers may be too large already, or growth given."""
    student = prepared.student.build(prepared.data, "student")
    templates = 2000 if growth is None else prepared.templates
    experiment = replace(prepared, growth=growth, templates=templates)
    size_of, teacher = sizes.size_of, object()
    parameters = int(times * size_of(student).parameters)

    def size(model):
        return sizes.Size(parameters, 4 * parameters, 1) if model is teacher else size_of(model)

    monkeypatch.setattr(sizes, "size_of", size)
    sizes.measure(experiment, teacher, student)
    (warning,) = _warnings(caplog)
    assert warning.endswith(f"and its teacher resnet20 only {parameters:,}: use {remedies}.")
