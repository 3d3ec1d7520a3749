"""Methods beside each other under one teacher, with as many seeds as wanted.

    python -m letkd_keras.recipes.compare --pair digits --trials 5 --out runs/compare-digits
    python -m letkd_keras.recipes.compare --pair resnet56-resnet20 --methods student kd letkd2

trains the teacher and fits its prototypes once, then every method with every seed, trial by trial,
and writes table.md, table.csv and table.png after each. The same command goes on where it was
interrupted and tries again what failed; methods and trials may be added to the same folder.

A pair is one of the paper's for CIFAR-100, any two networks of the zoo as TEACHER-STUDENT, or
`digits` (resnet20 and resnet8 on scikit-learn's handwritten digits). Reduced to a CPU:

    python -m letkd_keras.recipes.compare --pair resnet20-resnet8 --classes 20 --epochs 20
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from letkd_keras.recipes.command_line import run_main, verbosity


@dataclass(frozen=True)
class Defaults:
    """What a data set is trained with unless an option says otherwise."""

    epochs: int
    teacher_epochs: int
    templates: int


_DEFAULTS = {
    "digits": Defaults(epochs=6, teacher_epochs=12, templates=64),
    "cifar100": Defaults(epochs=240, teacher_epochs=240, templates=4096),
}


def add_grid_options(parser):
    """Options of every recipe that runs grids."""
    add = parser.add_argument
    add("--pair", default="digits", help="TEACHER-STUDENT on CIFAR-100, or digits (%(default)s)")
    add("--teacher", help="a trained .keras teacher; without it one is trained")
    add("--trials", type=int, default=1, help="seeds of every method (%(default)s)")
    add("--epochs", type=int, help="epochs of a student (digits 6, CIFAR-100 240)")
    add("--teacher-epochs", type=int, help="epochs of the teacher (digits 12, CIFAR-100 240)")
    add("--classes", type=int, help="so many of the data set's classes, the first")
    add("--train-examples", type=int, help="train on so many images, stratified")
    add("--test-examples", type=int, help="test on so many images, stratified")
    add(
        "--validation-fraction",
        type=float,
        default=0.0,
        help="hold so much of the training set out, choose the epoch by it and read the test set "
        "once; 0, the papers' practice, reports the last epoch and the best on the test set",
    )
    add("--templates", type=int, help="penultimate templates (digits 64, CIFAR-100 4096)")
    add("--subclasses", type=int, default=8, help="sub-classes of each class (%(default)s)")
    add("--data-dir", help="folder of tensorflow-datasets")
    add("--out", type=Path, help="folder of the grid (default: runs/compare-PAIR)")
    add("--batch-size", type=int, default=64, help="images a step (%(default)s)")
    add("--seed", type=int, default=0, help="seed of teacher, prototypes and first trial")


def parse(arguments=None):
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.recipes.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--methods", nargs="+", help="see python -m letkd_keras.recipes --list")
    add_grid_options(parser)
    return parser.parse_args(arguments)


def experiment_of(options, names):
    """The experiment that the options of `add_grid_options` ask for.

    Args:
        options: What was parsed.
        names: Names of the methods.

    Returns:
        `Experiment`.

    Raises:
        ValueError: If the pair or a method is unknown or a number out of range.
    """
    from letkd_keras.recipes import methods
    from letkd_keras.recipes.experiment import Experiment
    from letkd_keras.recipes.networks import Network
    from letkd_keras.recipes.training import cifar_schedule

    for name in names:
        methods.check(name)
    pair = _pair(options)
    defaults = _DEFAULTS[pair.dataset]
    data = _data(options, pair)
    if options.classes is not None:
        pair = pair.unpublished()
    data = data.subset(options.train_examples, options.test_examples, options.seed)
    if options.validation_fraction:
        data = data.hold_out(options.validation_fraction, options.seed)
    return Experiment(
        data=data,
        pair=pair,
        methods=tuple(names),
        teacher_schedule=cifar_schedule(
            0.05, _or(options.teacher_epochs, defaults.teacher_epochs), options.batch_size
        ),
        student_schedule=cifar_schedule(
            pair.learning_rate, _or(options.epochs, defaults.epochs), options.batch_size
        ),
        teacher=Network(options.teacher) if options.teacher else None,
        templates=_or(options.templates, defaults.templates),
        subclasses=options.subclasses,
        # A mirrored digit is another sign.
        augmentation={"flip": False} if pair.dataset == "digits" else {},
        seed=options.seed,
        trials=options.trials,
    )


def _or(option, default):
    return default if option is None else option


def _pair(options):
    from letkd_keras.recipes import pairs

    if options.pair == "digits":
        return pairs.Pair("resnet20", "resnet8", "digits")
    return pairs.find_or_make(options.pair, "cifar100")


def _data(options, pair):
    from letkd_keras.data import load_cifar, load_digits

    digits = pair.dataset == "digits"
    data = load_digits() if digits else load_cifar("cifar100", options.data_dir)
    return data if options.classes is None else data.first_classes(options.classes)


def main(arguments=None):
    """Run the recipe; returns the rows of its table."""
    options = parse(arguments)
    from letkd_keras.recipes import grid, methods

    out = options.out or Path("runs", f"compare-{options.pair}")
    table = grid.run(
        experiment_of(options, options.methods or list(methods.COMPARED)), out, verbosity()
    )
    show(out)
    return table


def show(out):
    """Print the table of a grid."""
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown((Path(out) / "table.md").read_text()))
    print(f"Everything is in {out}")


if __name__ == "__main__":
    run_main(main)
