import ast
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from letkd_keras.recipes import cifar100, imagenet, tiny_imagenet
from letkd_keras.recipes.experiments import published as module
from letkd_keras.recipes.experiments.published import (
    TABLES,
    TITLES,
    Accuracy,
    Table,
    ablations_of,
    methods_of,
    probes_of,
    published,
)

ROOT = Path(__file__).parents[3]
RN34 = "imagenet_resnet34-imagenet_resnet18"
MNV1 = "imagenet_resnet50-imagenet_mobilenet_v1"
PAIRS = list(dict.fromkeys((t.dataset, pair) for t in TABLES for pair, _, _ in t.cells()))


@pytest.mark.parametrize(
    "dataset, pair, method, top1",
    [
        ("cifar100", "resnet50-mnv2", "teacher", 79.34),
        ("cifar100", "wrn40_2-snv1", "student", 70.50),
        ("cifar100", "resnet110-resnet32", "kd", 73.08),
        ("cifar100", "resnet50-mnv2", "fitnet", 63.16),
        ("cifar100", "resnet50-mnv2", "at", 58.58),
        ("cifar100", "resnet32x4-snv2", "ab", 74.31),
        ("cifar100", "resnet110-resnet20", "fsp", 70.11),
        ("cifar100", "wrn40_2-snv1", "sp", 74.52),
        ("cifar100", "wrn40_2-wrn40_1", "vid", 73.30),
        ("cifar100", "resnet32x4-resnet8x4", "crd", 75.51),
        ("cifar100", "resnet32x4-snv2", "crd+kd", 76.05),
        ("cifar100", "resnet50-mnv2", "tdd", 68.37),
        ("cifar100", "wrn40_2-snv1", "tdd+crd", 76.34),
        ("cifar100", "resnet32x4-snv1", "dkd", 76.45),
        ("cifar100", "resnet32x4-resnet8x4", "simkd", 78.08),
        ("cifar100", "resnet56-resnet20", "quest", 71.84),
        ("cifar100", "resnet110-resnet20", "letkd1", 72.68),
        ("cifar100", "wrn40_2-wrn16_2", "letkd2", 76.56),
        ("cifar100", "resnet56-resnet20", "letkd_i0", 70.64),
        ("cifar100", "resnet56-resnet20", "letkd_i1", 70.80),
        ("cifar100", "resnet56-resnet20", "letkd_i0p0", 71.70),
        ("cifar100", "resnet56-resnet20", "letkd_i0p1", 72.13),
        ("cifar100", "resnet56-resnet20", "letkd_i1p0", 72.78),
        ("cifar100", "resnet110-resnet32", "fitnet_layer", 71.80),
        ("cifar100", "resnet110-resnet32", "fitnet_letkd", 73.36),
        ("tiny_imagenet", "resnet50-mnv2", "teacher", 68.97),
        ("tiny_imagenet", "wrn40_2-wrn40_1", "student", 56.25),
        ("tiny_imagenet", "wrn40_2-snv1", "kd", 64.80),
        ("tiny_imagenet", "resnet56-resnet20", "fitnet", 51.73),
        ("tiny_imagenet", "resnet50-mnv2", "at", 50.91),
        ("tiny_imagenet", "wrn40_2-wrn16_2", "fsp", 57.33),
        ("tiny_imagenet", "wrn40_2-wrn40_1", "sp", 53.74),
        ("tiny_imagenet", "wrn40_2-snv1", "vid", 63.58),
        ("tiny_imagenet", "resnet56-resnet20", "tdd", 54.45),
        ("tiny_imagenet", "resnet50-mnv2", "tdd+crd", 59.72),
        ("tiny_imagenet", "wrn40_2-wrn16_2", "quest", 59.86),
        ("tiny_imagenet", "wrn40_2-snv1", "letkd1", 65.70),
        ("tiny_imagenet", "resnet56-resnet20", "letkd2", 57.35),
        # The losses on the logits, from their authors' tables.
        ("cifar100", "resnet32x4-resnet8x4", "kd-ls", 76.62),
        ("cifar100", "resnet110-resnet20", "dkd-ls", 71.85),
        ("cifar100", "wrn40_2-wrn16_2", "mlkd", 76.63),
        ("cifar100", "resnet32x4-resnet8x4", "mlkd-ls", 78.28),
        ("cifar100", "resnet50-mnv2", "kd-ls", 69.02),
        ("cifar100", "resnet32x4-snv2", "dkd-ls", 77.37),
        ("cifar100", "resnet50-mnv2", "mlkd", 71.04),
        ("cifar100", "resnet32x4-snv2", "mlkd-ls", 78.76),
        ("cifar100", "resnet32x4-snv2", "dist", 77.35),
        ("cifar100", "wrn40_2-wrn16_2", "dist", 75.51),
        ("cifar100", "wrn40_2-snv1", "dist", 76.40),
        ("cifar100", "resnet56-resnet20", "wttm", 71.92),
        ("cifar100", "resnet110-resnet32", "wttm+crd", 74.52),
        ("cifar100", "resnet32x4-resnet8x4", "wttm+itrd", 77.36),
        ("cifar100", "resnet32x4-snv1", "wttm", 74.37),
        ("cifar100", "wrn40_2-snv1", "wttm+crd", 76.86),
        ("cifar100", "resnet50-mnv2", "wttm+itrd", 71.56),
    ],
)
def test_top1(dataset, pair, method, top1):
    assert published(dataset, pair, method).top1 == top1


@pytest.mark.parametrize(
    "pair, method, top1, top5",
    [
        (RN34, "teacher", 73.31, 91.42),
        (MNV1, "student", 68.87, 88.76),
        (RN34, "kd", 70.66, 89.88),
        (MNV1, "at+kd", 69.56, 89.33),
        (RN34, "at+kd", 70.70, 90.00),
        (RN34, "dkd", 71.70, 90.41),
        (MNV1, "quest", 72.54, 91.13),
        (RN34, "letkd1", 72.33, 91.06),
        (MNV1, "letkd2", 73.98, 92.00),
        (RN34, "dist", 72.07, None),
        (MNV1, "wttm", 73.09, None),
    ],
)
def test_imagenet(pair, method, top1, top5):
    accuracy = published("imagenet", pair, method)
    assert (accuracy.top1, accuracy.top5) == (top1, top5)
    assert accuracy.spread is None


@pytest.mark.parametrize(
    "dataset, letkd1, letkd2",
    [
        (
            "cifar100",
            [0.15, 0.09, 0.24, 0.31, 0.14, 0.06, 0.16, 0.24, 0.17, 0.18],
            [0.22, 0.13, 0.16, 0.14, 0.20, 0.18, 0.12, 0.12, 0.06, 0.23],
        ),
        ("tiny_imagenet", [0.36, 0.50, 0.33, 0.42, 0.17], [0.17, 0.27, 0.46, 0.50, 0.46]),
    ],
)
def test_every_letkd_number_has_its_spread(dataset, letkd1, letkd2):
    pairs = [pair for of, pair in PAIRS if of == dataset]
    assert [published(dataset, pair, "letkd1").spread for pair in pairs] == letkd1
    assert [published(dataset, pair, "letkd2").spread for pair in pairs] == letkd2


def test_spread_of_dist():
    spreads = [
        (pair, row["dist"].spread)
        for pair in ("wrn40_2-wrn40_1", "resnet56-resnet20", "resnet110-resnet32")
        for row in [methods_of("cifar100", pair)]
    ]
    assert spreads == [
        ("wrn40_2-wrn40_1", 0.24),
        ("resnet56-resnet20", 0.30),
        ("resnet110-resnet32", None),
    ]


def test_number_of_pairs():
    assert Counter(dataset for dataset, _ in PAIRS) == {
        "cifar100": 10,
        "tiny_imagenet": 5,
        "imagenet": 2,
    }


# Numbers a reader would count in the paper: all cells less the dashes.
@pytest.mark.parametrize(
    "dataset, count",
    [("cifar100", 10 * 18 - 5 - 5 - 5 - 1), ("tiny_imagenet", 5 * 13 - 2 - 3), ("imagenet", 16)],
)
def test_number_of_numbers_of_the_paper(dataset, count):
    numbers = [
        accuracy
        for of, pair in PAIRS
        if of == dataset
        for accuracy in methods_of(dataset, pair).values()
        if accuracy.source == "letKD"
    ]
    assert len(numbers) == count


# Sums of the letKD paper's numbers in each column and each row. A wrong cell changes two of them.
COLUMNS = {
    "cifar100": {
        **{"teacher": 765.39, "student": 704.42, "kd": 726.90, "fitnet": 712.60, "at": 709.73},
        **{"ab": 716.43, "fsp": 357.48, "sp": 722.24, "vid": 721.61, "crd": 737.15},
        **{"crd+kd": 739.40, "tdd": 364.55, "tdd+crd": 367.50, "dkd": 674.02, "simkd": 740.33},
        **{"quest": 744.30, "letkd1": 748.82, "letkd2": 752.83},
    },
    "tiny_imagenet": {
        **{"teacher": 311.09, "student": 284.95, "kd": 293.43, "fitnet": 167.03, "at": 284.94},
        **{"fsp": 110.88, "sp": 286.19, "vid": 290.21, "tdd": 296.45, "tdd+crd": 298.80},
        **{"quest": 298.56, "letkd1": 303.10, "letkd2": 307.45},
    },
    "imagenet": {
        **{"teacher": 149.44, "student": 138.62, "kd": 139.24, "at+kd": 140.26, "dkd": 143.75},
        **{"quest": 144.21, "letkd1": 146.11, "letkd2": 146.36},
    },
}
ROWS = {
    "cifar100": {
        "wrn40_2-wrn16_2": 1347.89,
        "wrn40_2-wrn40_1": 1255.67,
        "resnet56-resnet20": 1275.96,
        "resnet110-resnet20": 1063.41,
        "resnet110-resnet32": 1166.66,
        "resnet32x4-resnet8x4": 1199.05,
        "wrn40_2-snv1": 1278.13,
        "resnet32x4-snv1": 1123.81,
        "resnet32x4-snv2": 1133.57,
        "resnet50-mnv2": 1161.55,
    },
    "tiny_imagenet": {
        "wrn40_2-wrn16_2": 767.82,
        "wrn40_2-wrn40_1": 640.92,
        "resnet56-resnet20": 707.28,
        "wrn40_2-snv1": 706.53,
        "resnet50-mnv2": 710.53,
    },
    "imagenet": {RN34: 572.50, MNV1: 575.49},
}


@pytest.mark.parametrize("dataset", COLUMNS)
def test_sums_of_the_numbers_of_the_paper(dataset):
    columns, rows = Counter(), Counter()
    for of, pair in PAIRS:
        for method, accuracy in methods_of(of, pair).items():
            if of == dataset and accuracy.source == "letKD":
                columns[method] += accuracy.top1
                rows[pair] += accuracy.top1
    assert columns == pytest.approx(COLUMNS[dataset], abs=1e-3)
    assert rows == pytest.approx(ROWS[dataset], abs=1e-3)


def test_sums_of_top5():
    sums = [sum(x.top5 or 0 for x in methods_of("imagenet", p).values()) for p in (RN34, MNV1)]
    assert sums == pytest.approx([723.66, 725.92], abs=1e-3)


def test_methods_in_the_order_of_the_tables():
    assert list(methods_of("cifar100", "resnet56-resnet20")) == [
        *("teacher", "student", "kd", "fitnet", "at", "ab", "fsp", "sp", "vid"),
        *("crd", "crd+kd", "tdd", "tdd+crd", "dkd", "simkd", "quest", "letkd1", "letkd2"),
        *("kd-ls", "dkd-ls", "mlkd", "mlkd-ls", "dist", "wttm", "wttm+crd", "wttm+itrd"),
    ]
    assert list(methods_of("imagenet", RN34)) == [
        *("teacher", "student", "kd", "at+kd", "dkd", "quest", "letkd1", "letkd2"),
        *("dist", "wttm"),
    ]


def test_a_dash_is_no_number():
    assert published("cifar100", "resnet110-resnet20", "dkd") is None
    assert published("tiny_imagenet", "wrn40_2-snv1", "fitnet") is None
    assert "fsp" not in methods_of("cifar100", "resnet50-mnv2")


def test_unknown_pair_or_method_has_none():
    assert published("cifar100", "resnet56-resnet8", "kd") is None
    assert published("imagenet", "imagenet_resnet50-imagenet_mobilenet_v2", "letkd2") is None
    assert published("cifar100", "resnet56-resnet20", "letkd3") is None
    assert methods_of("tiny_imagenet", "resnet32x4-snv2") == {}
    assert ablations_of("cifar100", "wrn40_2-wrn16_2") == {}
    assert probes_of("cifar100", "wrn40_2-wrn16_2") == {}
    assert published("digits", "resnet56-resnet20", "kd") is None


@pytest.mark.parametrize("recipe", [cifar100, tiny_imagenet, imagenet])
def test_numbers_that_the_recipes_quote(recipe):
    of = recipe.SETTINGS.dataset
    rows = [methods_of(of, pair) for dataset, pair in PAIRS if dataset == of]
    cells = [accuracy for row in rows for accuracy in row.values() if accuracy.source == "letKD"]
    known = {number for cell in cells for number in (cell.top1, cell.top5, cell.spread)}
    quoted = [float(number) for number in re.findall(r"\b\d+\.\d\d\b", recipe.__doc__)]
    assert len(quoted) >= 7 and set(quoted) <= known


def test_numbers_that_the_documentation_quotes():
    pair = "resnet56-resnet20"
    kd, dkd, letkd2 = (published("cifar100", pair, name).top1 for name in ("kd", "dkd", "letkd2"))
    readme, results, more = (
        (ROOT / page).read_text()
        for page in ("README.md", "docs/results.md", "docs/more_results.md")
    )
    assert f"KD has\n{kd:.2f}, DKD {dkd:.2f} and letKD-2 {letkd2:.2f}." in readme
    assert (
        f"{letkd2 - kd:.1f} points above KD and {letkd2 - dkd:.1f} above DKD for {pair}" in results
    )
    for name in ("letkd_i0p0", "letkd_i0p1", "letkd_i1p0", "letkd2"):
        (row,) = re.findall(rf"^\| [01] \| [01] \| `{name}` .*$", more, re.MULTILINE)
        assert row.endswith(f"| {published('cifar100', pair, name).top1:.2f} |")
    without = published("cifar100", pair, "letkd_i0p0").top1
    intermediate, penultimate, both = (
        published("cifar100", pair, name).top1 - without
        for name in ("letkd_i1p0", "letkd_i0p1", "letkd2")
    )
    assert f"paper it adds {intermediate:.2f}, {penultimate:.2f} and {both:.2f}." in more


def test_the_dictionaries_are_copies():
    methods_of("cifar100", "resnet56-resnet20").clear()
    ablations_of("cifar100", "resnet56-resnet20").clear()
    assert published("cifar100", "resnet56-resnet20", "letkd2").top1 == 73.27
    assert published("cifar100", "resnet56-resnet20", "letkd_i1").top1 == 70.80


def test_fitnet_of_the_ablation_is_another_run():
    ablation = ablations_of("cifar100", "resnet110-resnet32")
    assert ablation["fitnet"].top1 == 71.59
    assert "Table 6" in ablation["fitnet"].source
    assert published("cifar100", "resnet110-resnet32", "fitnet").top1 == 71.06


def test_linear_probe():
    probes = probes_of("cifar100", "resnet56-resnet20")
    tops = {m: {f: accuracy.top1 for f, accuracy in probe.items()} for m, probe in probes.items()}
    assert tops == {
        "letkd_i0p1": {"x": 52.71, "x_hat": 52.71},
        "letkd2": {"x": 51.71, "x_hat": 56.36},
    }


@pytest.mark.parametrize(
    "method, words",
    [
        ("letkd2", ["letKD"]),
        ("dkd-ls", ["Sun", "CVPR 2024", "table 1"]),
        ("dist", ["Huang", "NeurIPS 2022"]),
        ("wttm+itrd", ["Zheng", "ICLR 2024", "table 1"]),
    ],
)
def test_sources(method, words):
    source = published("cifar100", "resnet32x4-resnet8x4", method).source
    assert all(word in source for word in words)


def test_notes_where_sources_differ():
    assert "74.73" in published("cifar100", "wrn40_2-wrn40_1", "dist").note
    assert "70.13" in published("imagenet", MNV1, "dist").note
    assert "temperature 3" in published("cifar100", "resnet50-mnv2", "kd-ls").note
    assert published("cifar100", "wrn40_2-wrn40_1", "wttm").note == ""


def test_numbers_are_plausible():
    for dataset, pair in PAIRS:
        for method, accuracy in {
            **ablations_of(dataset, pair),
            **methods_of(dataset, pair),
        }.items():
            assert 50 < accuracy.top1 < 80, (pair, method)
            assert accuracy.top5 is None or accuracy.top1 < accuracy.top5 < 94, (pair, method)


def test_titles_of_methods_without_implementation():
    published_methods = {m for dataset, pair in PAIRS for m in methods_of(dataset, pair)}
    assert set(TITLES) <= published_methods
    assert TITLES["tdd+crd"] == "TDD + CRD"
    assert TITLES["mlkd-ls"] == "MLKD + LS"  # as KD + LS and DKD + LS


def test_a_cell_that_is_no_number_and_a_short_row():
    assert list(Table("d", "pair kd fitnet\na-b 70.00/90.00 -").cells()) == [
        ("a-b", "kd", Accuracy(70.0, top5=90.0))
    ]
    with pytest.raises(ValueError, match="shorter"):
        list(Table("d", "pair kd fitnet\na-b 70.00").cells())
    with pytest.raises(ValueError, match=r"`7\.0` is not"):
        list(Table("d", "pair kd\na-b 7.0").cells())


def test_imports_the_standard_library_only():
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            )
            assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
