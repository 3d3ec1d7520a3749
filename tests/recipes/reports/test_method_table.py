"""The rows of the table of methods, its text and its picture, from results that are made up."""

from types import SimpleNamespace

import pytest
from PIL import Image

from letkd_keras.recipes.experiments.published import Accuracy
from letkd_keras.recipes.reports import method_table
from letkd_keras.recipes.trainings import training_folder
from letkd_keras.recipes.trainings.schedule import Schedule

TEACHER = {"accuracy_last": 90.0, "parameters": 1000}


@pytest.fixture
def experiment():
    data = SimpleNamespace(
        name="$a_$", split="made up", train_examples=4, test_examples=2, has_validation=False
    )
    network = SimpleNamespace(layer=lambda level: None)
    return SimpleNamespace(
        data=data,
        spec=SimpleNamespace(train_examples=4, test_examples=None),
        pair="$t_$-s",
        methods=("kd",),
        levels=(),
        seed=0,
        templates=8,
        subclasses=2,
        student_examples=None,
        student_schedule=Schedule(4, 0.1, (), 2),
        quantization_aware_schedule=None,
        teacher=network,
        student=network,
        published=lambda method: None,
    )


@pytest.fixture
def folder(tmp_path):
    for name, epochs in (
        *(("kd/seed0", 4), ("kd/seed1", 2), ("student/seed0", 4)),
        # Copies of a user.
        *(("kd/seed0 (copy)", 4), ("kd (copy)/seed0", 4)),
    ):
        (tmp_path / name).mkdir(parents=True)
        training_folder.write_checked_json(
            tmp_path / name / "result.json",
            {
                "accuracy_last": 50.0,
                "accuracy_best": 60.0,
                "best_epoch": 1,
                "epochs": epochs,
                "seconds": 1.0,
                "parameters": 100,
                "parameters_plain": 90,
            },
        )
    return tmp_path


def test_all_methods_of_the_folder_have_a_row(experiment, folder):
    rows = method_table.rows(experiment, folder)
    assert [(row["method"], row["trials"]) for row in rows] == [("student", 1), ("kd", 2)]


def test_numbers_are_in_the_columns_of_their_heads(experiment, folder):
    rows = method_table.rows(experiment, folder)
    text = method_table.markdown(experiment, TEACHER, rows, "")
    head, _, first, _ = (line for line in text.splitlines() if line.startswith("|"))
    assert head.endswith(" | parameters | without KD layers or adapters | time |")
    assert first.endswith(" | 50.00 | 60.00 | 100 | 90 | 1 s |")


def test_epochs_that_a_callback_left_out_are_named(experiment, folder):
    rows = method_table.rows(experiment, folder)
    text = method_table.markdown(experiment, TEACHER, rows, "")
    assert "Students: 4 epochs" in text
    assert "A callback ended trainings early, after these epochs: KD, seed 1: 2." in text
    text = method_table.markdown(experiment, TEACHER, rows[:1], "")
    assert "callback" not in text
    # The epochs of a result are those under fake quantization, where there are some.
    experiment.quantization_aware_schedule = experiment.student_schedule.quantization_aware(2)
    text = method_table.markdown(experiment, TEACHER, rows, "")
    assert "callback" not in text
    assert " Then 2 epochs under fake quantization, which is also in force where" in text


def test_parts_of_the_images_are_told(experiment, folder):
    for train_examples, student_examples, parts in ((4, None, (1, 0)), (None, 2, (0, 1))):
        experiment.spec.train_examples = train_examples
        experiment.student_examples = student_examples
        text = method_table.markdown(experiment, TEACHER, [], "")
        assert text.count("(made up; a part of them)") == parts[0]
        assert text.count("The students see 2 of the training images, repeated in") == parts[1]


def test_numbers_of_templates_are_named_where_methods_use_them(experiment, folder):
    for method, expected in (
        ("kd", "seeds from 0. "),
        ("letkd1", "seeds from 0; 8 penultimate templates. "),
        ("letkd2", "seeds from 0; 8 penultimate templates, 2 sub-classes of each class. "),
    ):
        experiment.methods = (method,)
        rows = method_table.rows(experiment, folder)
        assert expected in method_table.markdown(experiment, TEACHER, rows, "")


def test_a_teacher_that_is_worse_than_the_student_alone_is_told(experiment, folder):
    rows = method_table.rows(experiment, folder)  # the student alone has 50%
    note = "less than the student alone"
    for accuracy, is_worse in ((49.9, True), (50.0, False)):
        text = method_table.markdown(experiment, {**TEACHER, "accuracy_last": accuracy}, rows, "")
        assert (note in text) == is_worse
    text = method_table.markdown(experiment, {**TEACHER, "accuracy_last": 49.9}, rows[1:], "")
    assert note not in text


def test_names_that_are_no_mathematics_are_drawn(experiment, folder):
    method_table.write(experiment, folder, TEACHER)
    assert Image.open(folder / "table.png").width > 400


def test_accuracies_are_drawn_beside_the_names_of_their_methods(experiment, monkeypatch):
    figures = []
    monkeypatch.setattr(
        method_table, "save_figure", lambda figure, *_, **__: figures.append(figure)
    )
    rows = [
        {
            "method": method,
            "title": method,
            "trials": 1,
            "published": Accuracy(number + 2, spread=3.0),
            "accuracy_last_mean": number,
            "accuracy_last_std": None,
            "accuracy_best_mean": number + 1,
            "accuracy_best_std": None,
        }
        for method, number in (("student", 50), ("kd", 60))
    ]
    method_table._plot(experiment, TEACHER, rows, None)
    (axes,) = figures[0].axes
    names = dict(zip(axes.get_yticks(), axes.get_yticklabels(), strict=True))
    drawn = {}
    for container in axes.containers:
        ((x, y),) = container.lines[0].get_xydata()
        drawn.setdefault(names[round(y)].get_text(), []).append(x)
    assert drawn == {"student": [50, 51, 52], "kd": [60, 61, 62]}
