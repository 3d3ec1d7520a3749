"""The text of a report; `test_digits` reads the report of a run."""

from types import SimpleNamespace

import pytest

from letkd_keras.export.cost_report import CostRow
from letkd_keras.recipes.reports import report
from letkd_keras.recipes.trainings.schedule import Schedule


def test_the_table_of_costs_says_on_how_many_images_its_top1_is():
    row = CostRow("resnet8", "folded", "tflite", 10, 20, 30, 1.0, 2.0, 3.0, top1=90.0)
    assert "Top-1 is that on 1,000 of the 10,000 test images." in report._costs([row], 1000, 10_000)
    assert report._costs((), 0, 10_000) == ""


def _costs(**accuracies):
    rows = [
        CostRow("resnet8", form, "tflite", 10, 20, 30, 1.0, 2.0, 3.0, top1=top1)
        for form, top1 in accuracies.items()
    ]
    return report._costs(rows, 10, 10)


def test_the_table_of_costs_explains_the_forms_that_it_has():
    text = _costs(trained=90.0, folded=90.0)
    assert "| as trained | tflite |" in text
    assert "`as trained` is the student before folding. `folded` is what is exported." in text
    assert "KD layer" not in text
    text = _costs(plain=None, trained=90.0, folded=90.0)
    assert "`plain` is the student without KD layers, which was not trained alone." in text
    assert "Its file computes the values of each KD layer at every location." in text
    assert "without KD layers, trained alone. `folded` is" in _costs(plain=80.0, folded=90.0)


def test_unknown_multiply_adds_are_a_dash():
    sizes = {"teacher": {"parameters": 1000, "bytes": 4000, "multiply_adds": None}}
    teacher = SimpleNamespace(label="t.keras")
    text = report._sizes(SimpleNamespace(sizes=sizes, growth=None, teacher=teacher))
    assert "| teacher t.keras | 1,000 | 4,000 | - |" in text


@pytest.mark.parametrize("has_validation", [False, True])
def test_curves_have_both_phases_of_a_training(has_validation, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "save_figure", lambda figure, *_, **__: figures.append(figure))
    for name, accuracies in (("float/", (0.1, 0.2, 0.3)), ("", (0.25, 0.35))):
        lines = [f"{epoch},{accuracy},1.0,{epoch + 2}" for epoch, accuracy in enumerate(accuracies)]
        file = tmp_path / "kd" / "seed0" / f"{name}metrics.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["epoch,val_accuracy,loss,task_loss", *lines]))
    schedule = Schedule(3, 0.1, (), 2)
    experiment = SimpleNamespace(
        data=SimpleNamespace(name="made up", has_validation=has_validation),
        pair="t-s",
        student_schedule=schedule,
        quantization_aware_schedule=schedule.quantization_aware(2),
    )
    table = [{"method": "kd", "results": [{"seed": 0}]}]
    report._plot_curves(experiment, tmp_path, {"accuracy_last": 50.0}, table)
    accuracy, loss = figures[0].axes
    lines = {line.get_label(): line for line in accuracy.lines}
    assert list(lines["KD"].get_xdata()) == [1, 2, 3, 4, 5]
    assert list(lines["KD"].get_ydata()) == [10, 20, 30, 25, 35]
    assert list(lines["fake quantization begins"].get_xdata()) == [3.5, 3.5]
    curve, _ = loss.lines
    assert list(curve.get_ydata()) == [2, 3, 4, 2, 3]  # the cross-entropy, of the sum of all losses
    # Its accuracy is that on the test images, whatever those of the curves are.
    suffix = " (test images)" if has_validation else ""
    assert f"teacher, from a file{suffix}" in lines
