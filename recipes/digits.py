"""letKD in a few minutes on a laptop: handwritten digits, real images, no download.

    python -m letkd_keras.recipes.digits

trains a small teacher (resnet20), fits its prototypes, trains a smaller student (resnet8) alone,
by plain KD and by letKD-2, compares them, exports the letKD student to
SavedModel and TFLite, reloads both without this package and checks them. Takes under four minutes
on two CPU cores; `--trials 3` repeats every student with three seeds.
"""

import argparse
from pathlib import Path

from letkd_keras.recipes.command_line import add_run_options, run_main, show, verbosity


def parse(arguments=None):
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.recipes.digits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--teacher-epochs", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=6, help="epochs of every student")
    parser.add_argument("--trials", type=int, default=1, help="seeds of every student")
    parser.add_argument("--train-examples", type=int, help="train on so many images, stratified")
    parser.add_argument("--templates", type=int, default=64, help="penultimate templates")
    parser.add_argument(
        "--methods", nargs="+", default=["student", "kd", "letkd2"], help="methods to compare"
    )
    add_run_options(parser, batch_size=64, default_dir="runs/digits")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    options = parse(arguments)
    from letkd_keras.data import load_digits
    from letkd_keras.recipes.experiment import Experiment, run
    from letkd_keras.recipes.pairs import Pair
    from letkd_keras.recipes.training import cifar_schedule

    experiment = Experiment(
        data=load_digits().subset(options.train_examples, seed=options.seed),
        pair=Pair("resnet20", "resnet8", "digits"),
        methods=tuple(options.methods),
        teacher_schedule=cifar_schedule(0.05, options.teacher_epochs, options.batch_size),
        student_schedule=cifar_schedule(0.05, options.epochs, options.batch_size),
        templates=options.templates,
        # A mirrored digit is another sign.
        augmentation={"flip": False},
        seed=options.seed,
        trials=options.trials,
        export_method="letkd2",
    )
    run_dir = options.run_dir or Path("runs/digits")
    report = run(experiment, run_dir, verbosity())
    show(run_dir)
    return report


if __name__ == "__main__":
    run_main(main)
