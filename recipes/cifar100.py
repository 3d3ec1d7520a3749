"""letKD on CIFAR-100, as in the paper's tables 1 and 2.

    python -m letkd_keras.recipes.cifar100 --pair resnet56-resnet20 --method letkd2

takes a teacher file or trains a teacher by the same schedule, fits or reuses its prototypes,
distils the student for 240 epochs, reports last-epoch and best-epoch accuracy beside the published
one, and exports the student to SavedModel and TFLite. To try it in minutes:

    python -m letkd_keras.recipes.cifar100 --train-examples 2000 --epochs 2

Expected top-1 of resnet56-resnet20 (paper, mean of five runs): student alone 69.06, KD 70.66,
letKD-1 72.44, letKD-2 73.27.
"""

import argparse
from pathlib import Path

from letkd_keras.recipes.command_line import add_run_options, run_main, show, verbosity


def parse(arguments=None):
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.recipes.cifar100",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pair", default="resnet56-resnet20", help="teacher-student")
    parser.add_argument(
        "--method", default="letkd2", help="letkd1, letkd2, quest, kd or student (default: letkd2)"
    )
    parser.add_argument("--dataset", default="cifar100", help="cifar100 or cifar10")
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets")
    parser.add_argument("--teacher", help="a trained .keras teacher; without it one is trained")
    parser.add_argument("--epochs", type=int, default=240, help="milestones scale with it")
    parser.add_argument("--teacher-epochs", type=int, help="default: as --epochs")
    parser.add_argument("--train-examples", type=int, help="train on so many images, stratified")
    parser.add_argument("--test-examples", type=int, help="test on so many images, stratified")
    parser.add_argument("--templates", type=int, default=4096, help="penultimate templates")
    parser.add_argument("--subclasses", type=int, default=8, help="sub-classes of each class")
    parser.add_argument("--trials", type=int, default=1, help="students, of consecutive seeds")
    add_run_options(parser, batch_size=64, default_dir="runs/DATASET/PAIR-METHOD")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    options = parse(arguments)
    from letkd_keras.recipes import methods, pairs
    from letkd_keras.recipes.experiment import Experiment, run
    from letkd_keras.recipes.training import cifar_schedule

    from letkd_keras.data import load_cifar

    pair = pairs.find(options.pair, "cifar100")
    methods.check(options.method)
    student_schedule = cifar_schedule(pair.learning_rate, options.epochs, options.batch_size)
    teacher_schedule = cifar_schedule(
        epochs=options.teacher_epochs or options.epochs, batch_size=options.batch_size
    )
    run_dir = options.run_dir or Path("runs", options.dataset, f"{pair.name}-{options.method}")
    data = load_cifar(options.dataset, options.data_dir).subset(
        options.train_examples, options.test_examples, options.seed
    )
    experiment = Experiment(
        data=data,
        pair=pair,
        methods=(options.method,),
        teacher_schedule=teacher_schedule,
        student_schedule=student_schedule,
        teacher_file=options.teacher,
        templates=options.templates,
        subclasses=options.subclasses,
        seed=options.seed,
        trials=options.trials,
        export_method=options.method,
    )
    report = run(experiment, run_dir, verbosity())
    show(run_dir)
    return report


if __name__ == "__main__":
    run_main(main)
