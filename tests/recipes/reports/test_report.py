"""The text of a report; `test_digits` reads the report of a run."""

from letkd_keras.export.cost_report import CostRow
from letkd_keras.recipes.reports import report


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
