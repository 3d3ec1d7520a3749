"""The tables of results have the accuracies of the trainings in docs/results/*.csv."""

import csv
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from letkd_keras.recipes.experiments import methods

DOCS = Path(__file__).parents[1] / "docs"
DIGITS_RECIPE = ("student", "kd", "letkd2")  # the methods of the next table on digits, too
ROUNDING = 0.0101  # the accuracies in the files are rounded, too


def _trainings(file, *columns):
    """The trainings of a file, in the order of their seeds, by method and columns."""
    groups = defaultdict(list)
    with (DOCS / "results" / file).open(newline="") as lines:
        for row in csv.DictReader(lines):
            groups[row["method"], *(row[column] for column in columns)].append(row)
    return groups


def _rows(page, name):
    """The cells after the first one, of all rows of a page that begin with a name."""
    lines = (line.split(" | ") for line in page.read_text().splitlines() if line[:2] == "| ")
    return [" | ".join(cells[1:]) for cells in lines if cells[0] == f"| {name}"]


def _spreads(text):
    found = re.findall(r"(\d+\.\d+) ± (\d+\.\d+)", text)
    return [(float(mean), float(deviation)) for mean, deviation in found]


def _has(text, trainings, column="accuracy_last"):
    values = [float(training[column]) for training in trainings]
    wanted = pytest.approx((statistics.mean(values), statistics.stdev(values)), abs=ROUNDING)
    return any(spread == wanted for spread in _spreads(text))


@pytest.mark.parametrize(
    ("method", "labelled_images"), _trainings("cifar20_gpu.csv", "labelled_images")
)
def test_means_of_the_trainings_on_the_gpu(method, labelled_images):
    trainings = _trainings("cifar20_gpu.csv", "labelled_images")[method, labelled_images]
    rows = _rows(DOCS / "results.md", methods.title(method))
    assert any(_has(row, trainings) and _has(row, trainings, "accuracy_best") for row in rows), rows


@pytest.mark.parametrize("method", ["student", "kd", "dkd", "letkd2", "letkd2+dkd"])
@pytest.mark.parametrize("labelled_images", ["10000", "1000"])
def test_the_table_of_readme(method, labelled_images):
    trainings = _trainings("cifar20_gpu.csv", "labelled_images")[method, labelled_images]
    (row,) = _rows(DOCS.parent / "README.md", methods.title(method))
    assert _has(row.split(" | ")[0 if labelled_images == "10000" else 1], trainings)


@pytest.mark.parametrize("method", [method for (method,) in _trainings("digits.csv")])
def test_digits(method):
    trainings = _trainings("digits.csv")[method,]
    row = _rows(DOCS / "more_results.md", methods.title(method))[-1 - (method in DIGITS_RECIPE)]
    seeds, mean, five_seeds, parameters = row.rstrip(" |").split(" | ")
    accuracies = [training["accuracy_last"] for training in trainings]
    assert seeds == ", ".join(accuracies[:2])
    assert float(mean) == pytest.approx(sum(map(float, accuracies[:2])) / 2, abs=ROUNDING)
    assert _has(five_seeds, trainings) if len(trainings) == 5 else five_seeds == "-"
    assert {parameters.replace(",", "")} == {training["parameters"] for training in trainings}


def test_trainings_on_cpus_are_on_a_page():
    pages = (DOCS / "results.md").read_text() + (DOCS / "more_results.md").read_text()
    for group in _trainings("cifar20.csv").values():
        for training in group:
            assert training["accuracy_last"] in pages, training
