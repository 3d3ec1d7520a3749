"""The text of a report; `test_digits` reads the report of a run."""

from letkd_keras.export.cost_report import CostRow
from letkd_keras.recipes.reports import report


def test_the_table_of_costs_says_on_how_many_images_its_top1_is():
    row = CostRow("resnet8", "folded", "tflite", 10, 20, 30, 1.0, 2.0, 3.0, top1=90.0)
    assert "Top-1 is that on 1,000 of the 10,000 test images." in report._costs([row], 1000, 10_000)
    assert report._costs((), 0, 10_000) == ""
