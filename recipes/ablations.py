"""The paper's ablations, each a grid like those of `compare`.

    python -m letkd_keras.recipes.ablations alphas --pair resnet56-resnet20
    python -m letkd_keras.recipes.ablations templates --values 256 1024 4096 --pair digits
    python -m letkd_keras.recipes.ablations subclasses --values 2 4 8 --pair digits
    python -m letkd_keras.recipes.ablations temperature --values 0.5 1 2 --pair digits
    python -m letkd_keras.recipes.ablations probe --pair digits

`alphas` trains the eight settings of both levels' alphas (supplement, Table 5). `templates`,
`subclasses` and `temperature` sweep the penultimate K, the sub-classes of each class and the
sharpness of the penultimate targets, under one teacher, into sweep.md, sweep.csv and sweep.png.
`probe` classifies the pooled features before and behind the intermediate KD layer, x and x_hat, by
linear discriminant analysis. Other options are those of `compare`; the same command goes on where
it was interrupted.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from letkd_keras.recipes.command_line import run_main, verbosity
from letkd_keras.recipes.compare import add_grid_options, experiment_of, show

ALPHAS = (
    "letkd_i0",
    "letkd_i1",
    "quest",
    "letkd1",
    "letkd_i0p0",
    "letkd_i0p1",
    "letkd_i1p0",
    "letkd2",
)
PROBED = ("letkd_i0p0", "letkd2")

# What is swept: the method whose students show it.
_SWEPT = {"templates": "letkd1", "subclasses": "letkd2", "temperature": "letkd1"}


def parse(arguments=None):
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.recipes.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ablation", choices=["alphas", *_SWEPT, "probe"])
    parser.add_argument("--values", nargs="+", type=float, help="values of a sweep")
    parser.add_argument("--methods", nargs="+", help="methods of a sweep (letkd1 or letkd2)")
    add_grid_options(parser)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run an ablation; returns the rows of its table."""
    options = parse(arguments)
    out = options.out or Path("runs", f"{options.ablation}-{options.pair}")
    if options.ablation in _SWEPT:
        return _sweep(options, out)
    from letkd_keras.recipes import grid, probe

    names = ALPHAS if options.ablation == "alphas" else PROBED
    experiment = experiment_of(options, names)
    table = grid.run(experiment, out, verbosity())
    show(out)
    if options.ablation == "probe":
        table = probe.write(experiment, out, PROBED)
        print((out / "probe.md").read_text())
    return table


def _sweep(options, out):
    from letkd_keras.recipes import sweep

    if not options.values:
        raise ValueError(f"`values` must name what {options.ablation} are tried. Received: none")
    number = float if options.ablation == "temperature" else int
    values = [number(value) for value in options.values]
    if values != options.values:
        raise ValueError(f"`values` must be whole numbers. Received: {options.values}")
    names = options.methods or [_SWEPT[options.ablation]]
    experiment = experiment_of(options, names)
    experiments = [replace(experiment, **{options.ablation: value}) for value in values]
    rows = sweep.run(options.ablation, values, experiments, out, verbosity())
    print((out / "sweep.md").read_text())
    return rows


if __name__ == "__main__":
    run_main(main)
