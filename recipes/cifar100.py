"""letKD on CIFAR-100, as in the paper's tables 1 and 2.

    python -m letkd_keras.recipes.cifar100 --pair resnet56-resnet20 --method letkd2

takes a teacher file or trains a teacher by the same schedule, fits or reuses its prototypes,
distils the student for 240 epochs, reports last-epoch and best-epoch accuracy beside the published
one, and exports the student to SavedModel and TFLite. To try it in minutes:

    python -m letkd_keras.recipes.cifar100 --train-examples 2000 --epochs 2

Where there is no TensorFlow it runs on JAX, from a file that `python -m letkd_keras.data` wrote:

    KERAS_BACKEND=jax python -m letkd_keras.recipes.cifar100 --data-dir cifar100.npz

Expected top-1 of resnet56-resnet20 (paper, mean of five runs): student alone 69.06, KD 70.66,
letKD-1 72.44, letKD-2 73.27.
"""

import argparse

from letkd_keras.recipes.command_line import run_main, show, verbosity
from letkd_keras.recipes.paper_pair import PairRun, add_pair_options


def parse(arguments=None):
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.recipes.cifar100",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", default="cifar100", help="cifar100 or cifar10")
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets, or a .npz file")
    add_pair_options(parser, pair="resnet56-resnet20", epochs=240, batch_size=64, dataset="DATASET")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns its report."""
    options = parse(arguments)
    this = PairRun.of(options, "cifar100", options.dataset)
    from letkd_keras.data import load_cifar
    from letkd_keras.recipes.experiment import run
    from letkd_keras.recipes.training import cifar_schedule

    data = load_cifar(options.dataset, options.data_dir)
    report = run(this.experiment(data, cifar_schedule), this.run_dir, verbosity())
    show(this.run_dir)
    return report


if __name__ == "__main__":
    run_main(main)
