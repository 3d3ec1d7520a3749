"""Published accuracies in percent, as the tables of the papers.

Tables of the letKD paper and its supplement (CIFAR-100: mean of five runs; Tiny-ImageNet: of three)
and, for losses on the logits, of their authors' own tables. A cell is `top-1`, `top-1±spread` or
`top-1/top-5`; `-` where the paper has no number. Every number is in one cell only.
"""

import re
from dataclasses import dataclass, replace

_CELL = re.compile(r"(\d+\.\d\d)(?:/(\d+\.\d\d))?(?:±(\d+\.\d\d))?")

# Titles of what the tables have and the table of methods has not.
TITLES = {
    "teacher": "teacher",
    "ab": "AB",
    "fsp": "FSP",
    "crd+kd": "CRD + KD",
    "tdd": "TDD",
    "tdd+crd": "TDD + CRD",
    "at+kd": "AT + KD",
    "mlkd": "MLKD",
    "mlkd-ls": "MLKD + LS",
    "wttm+crd": "WTTM + CRD",
    "wttm+itrd": "WTTM + ITRD",
}


@dataclass(frozen=True)
class Accuracy:
    """A published accuracy.

    Attributes:
        top1: Top-1 accuracy in percent.
        spread: What the source gives behind ±, in percentage points; `None` if it gives none.
        top5: Top-5 accuracy in percent, or `None`.
        source: Paper, and where in it.
        note: What a reader of the number must know, or the empty string.
    """

    top1: float
    spread: float | None = None
    top5: float | None = None
    source: str = "letKD"
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a paper: a header of methods, then a row for each pair.

    Attributes:
        dataset: Name of the data set.
        text: The table. Columns are separated by spaces, the first is the pair.
        source: Paper, and where in it.
    """

    dataset: str
    text: str
    source: str = "letKD"

    def cells(self):
        """`(pair, method, Accuracy)` of every cell with a number, row by row."""
        (_, *methods), *rows = (line.split() for line in self.text.strip().splitlines())
        for pair, *cells in rows:
            for method, cell in zip(methods, cells, strict=True):
                if cell != "-":
                    yield pair, method, self._accuracy(cell)

    def _accuracy(self, cell):
        match = _CELL.fullmatch(cell)
        if match is None:
            raise ValueError(f"`{cell}` is not `top-1`, `top-1±spread`, `top-1/top-5` or `-`.")
        top1, top5, spread = match.groups()
        return Accuracy(
            float(top1),
            spread=float(spread) if spread else None,
            top5=float(top5) if top5 else None,
            source=self.source,
        )


_CIFAR100 = (
    Table(
        "cifar100",
        """
        pair                  teacher  student  kd     fitnet  at     ab     fsp    sp     vid
        wrn40_2-wrn16_2       75.61    73.26    74.92  73.58   74.08  72.50  72.91  73.83  74.11
        wrn40_2-wrn40_1       75.61    71.98    73.54  72.24   72.77  72.38  -      72.43  73.30
        resnet56-resnet20     72.34    69.06    70.66  69.21   70.55  69.47  69.95  69.67  70.38
        resnet110-resnet20    74.31    69.06    70.67  68.99   70.22  69.53  70.11  70.04  70.16
        resnet110-resnet32    74.31    71.14    73.08  71.06   72.31  70.98  71.89  72.69  72.61
        resnet32x4-resnet8x4  79.42    72.50    73.33  73.50   73.44  73.17  72.62  72.94  73.09
        wrn40_2-snv1          75.61    70.50    74.83  73.73   73.32  73.34  -      74.52  73.61
        resnet32x4-snv1       79.42    70.50    74.07  73.59   71.73  73.55  -      73.48  73.38
        resnet32x4-snv2       79.42    71.82    74.45  73.54   72.73  74.31  -      74.56  73.40
        resnet50-mnv2         79.34    64.60    67.35  63.16   58.58  67.20  -      68.08  67.57
        """,
    ),
    Table(
        "cifar100",
        """
        pair                  crd    crd+kd  tdd    tdd+crd  dkd    simkd  quest
        wrn40_2-wrn16_2       75.48  75.64   75.01  75.71    76.24  76.06  76.10
        wrn40_2-wrn40_1       74.14  74.38   74.04  74.35    74.81  74.92  74.58
        resnet56-resnet20     71.16  71.63   71.53  71.88    71.97  68.95  71.84
        resnet110-resnet20    71.46  71.56   -      -        -      69.35  71.89
        resnet110-resnet32    73.48  73.75   -      -        74.11  72.15  74.08
        resnet32x4-resnet8x4  75.51  75.46   -      -        76.32  78.08  75.88
        wrn40_2-snv1          76.05  76.27   75.60  76.34    76.70  76.95  76.75
        resnet32x4-snv1       75.11  75.12   -      -        76.45  77.18  76.28
        resnet32x4-snv2       75.65  76.05   -      -        77.07  77.78  77.09
        resnet50-mnv2         69.11  69.54   68.37  69.22    70.35  68.91  69.81
        """,
    ),
    Table(
        "cifar100",
        """
        pair                  letkd1      letkd2
        wrn40_2-wrn16_2       76.29±0.15  76.56±0.22
        wrn40_2-wrn40_1       75.01±0.09  75.19±0.13
        resnet56-resnet20     72.44±0.24  73.27±0.16
        resnet110-resnet20    72.68±0.31  73.38±0.14
        resnet110-resnet32    74.40±0.14  74.62±0.20
        resnet32x4-resnet8x4  76.70±0.06  77.09±0.18
        wrn40_2-snv1          76.93±0.16  77.08±0.12
        resnet32x4-snv1       76.65±0.24  77.30±0.12
        resnet32x4-snv2       77.75±0.17  77.95±0.06
        resnet50-mnv2         69.97±0.18  70.39±0.23
        """,
    ),
)

_TINY_IMAGENET = (
    Table(
        "tiny_imagenet",
        """
        pair               teacher  student  kd     fitnet  at     fsp    sp     vid
        wrn40_2-wrn16_2    61.26    57.17    59.16  57.75   58.71  57.33  55.69  58.51
        wrn40_2-wrn40_1    61.26    56.25    57.75  -       57.41  -      53.74  57.42
        resnet56-resnet20  58.34    52.66    53.04  51.73   54.01  53.55  54.03  53.20
        wrn40_2-snv1       61.26    60.52    64.80  -       63.90  -      64.62  63.58
        resnet50-mnv2      68.97    58.35    58.68  57.55   50.91  -      58.11  57.50
        """,
    ),
    Table(
        "tiny_imagenet",
        """
        pair               tdd    tdd+crd  quest  letkd1      letkd2
        wrn40_2-wrn16_2    59.22  59.53    59.86  61.42±0.36  62.21±0.17
        wrn40_2-wrn40_1    58.42  59.20    59.13  59.75±0.50  60.59±0.27
        resnet56-resnet20  54.45  54.85    54.53  55.54±0.33  57.35±0.46
        wrn40_2-snv1       65.27  65.50    65.23  65.70±0.42  66.15±0.50
        resnet50-mnv2      59.09  59.72    59.81  60.69±0.17  61.15±0.46
        """,
    ),
)

# The paper calls the second pair's student MNV2. In the authors' program it is MobileNetV1.
_IMAGENET = (
    Table(
        "imagenet",
        """
        pair                                     teacher      student      kd           at+kd
        imagenet_resnet34-imagenet_resnet18      73.31/91.42  69.75/89.07  70.66/89.88  70.70/90.00
        imagenet_resnet50-imagenet_mobilenet_v1  76.13/92.86  68.87/88.76  68.58/88.98  69.56/89.33
        """,
    ),
    Table(
        "imagenet",
        """
        pair                                     dkd          quest        letkd1       letkd2
        imagenet_resnet34-imagenet_resnet18      71.70/90.41  71.67/90.67  72.33/91.06  72.38/91.15
        imagenet_resnet50-imagenet_mobilenet_v1  72.05/91.05  72.54/91.13  73.78/91.81  73.98/92.00
        """,
    ),
)

_LOGIT_STANDARDISATION = "Sun et al., CVPR 2024; sunshangquan/logit-standardization-KD"
_DIST = "Huang et al., NeurIPS 2022; hunto/DIST_KD"
_WTTM = "Zheng and Yang, ICLR 2024; zkxufo/TTM"

# Each paper's own table of its loss, as in the README of its authors' program.
_LOGIT_LOSSES = (
    Table(
        "cifar100",
        """
        pair                  kd-ls  dkd-ls  mlkd   mlkd-ls
        wrn40_2-wrn16_2       76.11  76.39   76.63  76.95
        wrn40_2-wrn40_1       74.37  74.89   75.35  75.56
        resnet56-resnet20     71.43  72.32   72.19  72.33
        resnet110-resnet20    71.48  71.85   71.89  72.27
        resnet110-resnet32    74.17  74.29   74.11  74.32
        resnet32x4-resnet8x4  76.62  77.01   77.08  78.28
        """,
        f"{_LOGIT_STANDARDISATION}, CIFAR-100, table 1",
    ),
    Table(
        "cifar100",
        """
        pair                  kd-ls  dkd-ls  mlkd   mlkd-ls
        resnet32x4-snv2       75.56  77.37   78.44  78.76
        resnet50-mnv2         69.02  70.45   71.04  71.19
        """,
        f"{_LOGIT_STANDARDISATION}, CIFAR-100, table 2",
    ),
    Table(
        "cifar100",
        """
        pair                  dist
        wrn40_2-wrn40_1       74.43±0.24
        resnet56-resnet20     71.75±0.30
        resnet32x4-resnet8x4  76.31±0.19
        resnet32x4-snv1       76.34±0.18
        resnet32x4-snv2       77.35±0.25
        resnet50-mnv2         68.66±0.23
        """,
        f"{_DIST}, CIFAR-100",
    ),
    # DIST of the pairs that its own paper does not have.
    Table(
        "cifar100",
        """
        pair                  dist   wttm   wttm+crd  wttm+itrd
        wrn40_2-wrn16_2       75.51  76.37  76.61     76.65
        wrn40_2-wrn40_1       -      74.58  74.94     75.34
        resnet56-resnet20     -      71.92  72.20     72.16
        resnet110-resnet20    71.65  71.67  72.13     72.20
        resnet110-resnet32    73.69  74.13  74.52     74.36
        resnet32x4-resnet8x4  -      76.06  76.65     77.36
        """,
        f"{_WTTM}, CIFAR-100, table 1",
    ),
    Table(
        "cifar100",
        """
        pair                  dist   wttm   wttm+crd  wttm+itrd
        wrn40_2-snv1          76.40  75.42  76.86     77.44
        resnet32x4-snv1       -      74.37  75.82     77.03
        resnet32x4-snv2       -      76.55  77.04     77.68
        resnet50-mnv2         -      69.59  70.84     71.56
        """,
        f"{_WTTM}, CIFAR-100, table 2",
    ),
    Table(
        "imagenet",
        """
        pair                                     dist
        imagenet_resnet34-imagenet_resnet18      72.07
        imagenet_resnet50-imagenet_mobilenet_v1  73.24
        """,
        f"{_DIST}, ImageNet, baseline settings",
    ),
    Table(
        "imagenet",
        """
        pair                                     wttm
        imagenet_resnet34-imagenet_resnet18      72.19
        imagenet_resnet50-imagenet_mobilenet_v1  73.09
        """,
        f"{_WTTM}, ImageNet",
    ),
)

# Intermediate (i) and penultimate (p) alpha. With one level: `letkd_i0` and `letkd_i1`; the
# penultimate level alone is `quest` and `letkd1`, and both alphas 1 are `letkd2`, above.
_ALPHAS = Table(
    "cifar100",
    """
    pair               letkd_i0  letkd_i1  letkd_i0p0  letkd_i0p1  letkd_i1p0
    resnet56-resnet20  70.64     70.80     71.70       72.13       72.78
    """,
    "letKD, supplement, Table 5",
)
# FitNet again, from the supplement's own runs. It is not the FitNet of the table above.
_FITNET_LAYER = Table(
    "cifar100",
    """
    pair                fitnet  fitnet_layer  fitnet_letkd
    resnet110-resnet32  71.59   71.80         73.36
    """,
    "letKD, supplement, Table 6",
)
# Accuracy of linear discriminant analysis on the pooled features of the intermediate KD layer:
# x before it, x_hat behind it. With intermediate alpha 0 (`letkd_i0p1`), x_hat is x.
_PROBE = Table(
    "cifar100",
    """
    pair               letkd_i0p1:x  letkd2:x  letkd2:x_hat
    resnet56-resnet20  52.71         51.71     56.36
    """,
    "letKD, supplement, Table 4",
)

TABLES = (*_CIFAR100, *_TINY_IMAGENET, *_IMAGENET, *_LOGIT_LOSSES)
ABLATIONS = (_ALPHAS, _FITNET_LAYER)

_NOTES = {
    ("cifar100", "wrn40_2-wrn40_1", "dist"): "Zheng and Yang quote 74.73 from the paper of DIST",
    ("cifar100", "resnet50-mnv2", "kd-ls"): "its authors' log has temperature 3 and weight 1",
    (
        "imagenet",
        "imagenet_resnet50-imagenet_mobilenet_v1",
        "dist",
    ): "the student alone is at 70.13 in this source",
}


def _by_pair(tables):
    rows = {}
    for table in tables:
        for pair, method, accuracy in table.cells():
            row = rows.setdefault((table.dataset, pair), {})
            if method in row:
                raise ValueError(f"{table.dataset} {pair} has two numbers for {method}.")
            note = _NOTES.get((table.dataset, pair, method), "")
            row[method] = replace(accuracy, note=note)
    return rows


_ROWS = _by_pair(TABLES)
_ABLATION_ROWS = _by_pair(ABLATIONS)
_PROBE_ROWS = _by_pair((_PROBE,))


def methods_of(dataset, pair):
    """Published accuracies of a pair by method, in the order of the tables.

    Args:
        dataset: Name of the data set.
        pair: `teacher-student`, by their names in the zoo.

    Returns:
        Dictionary from the method's name to its `Accuracy`. `"teacher"` and `"student"` (trained
        alone) are among them, ablations are not. Empty if nothing is published for the pair.
    """
    return dict(_ROWS.get((dataset, pair), {}))


def ablations_of(dataset, pair):
    """The same for the supplement's ablations.

    Table 6 has its own run of FitNet, so `"fitnet"` can be in both dictionaries, with different
    numbers.
    """
    return dict(_ABLATION_ROWS.get((dataset, pair), {}))


def published(dataset, pair, method):
    """Published accuracy of a method on a pair.

    Args:
        dataset: Name of the data set.
        pair: `teacher-student`, by their names in the zoo.
        method: Name of the method, of an ablation, `"teacher"` or `"student"`.

    Returns:
        An `Accuracy`, or `None` if there is none. A method that is in the main tables and in an
        ablation has the number of the main tables.
    """
    accuracy = methods_of(dataset, pair).get(method)
    return accuracy or ablations_of(dataset, pair).get(method)


def probes_of(dataset, pair):
    """Published accuracies of the linear probe at the intermediate KD layer (Table 4).

    Args:
        dataset: Name of the data set.
        pair: `teacher-student`, by their names in the zoo.

    Returns:
        Dictionary from the method's name to `{"x": Accuracy, "x_hat": Accuracy}`, of the features
        before and behind the layer. The two are equal where the intermediate alpha is 0. Empty if
        nothing is published for the pair.
    """
    probes = {}
    for name, accuracy in _PROBE_ROWS.get((dataset, pair), {}).items():
        method, features = name.split(":")
        probes.setdefault(method, {})[features] = accuracy
    return {method: {"x_hat": probe["x"], **probe} for method, probe in probes.items()}
