"""Compare methods under one teacher, with one or several seeds.

    python -m letkd_keras.recipes.compare --trials 5
    python -m letkd_keras.recipes.compare --data cifar100 --pair resnet56-resnet20 \
--methods student kd letkd2 letkd2+dkd

This trains the teacher and fits its prototypes once. Then it trains a student by every method with
every seed, trial by trial. After each training it writes table.md, table.csv, table.png and
trainings.csv (a row for each training). The same command continues where it was interrupted, and
tries again what failed. Methods and trials can be added to the same folder. `--jobs N` trains N
students at the same time, each in a process of its own.

Every data set of `--data` can be compared on. Schedule, augmentation and numbers of templates are
those of the recipe of the data set (digits, cifar100 (also for cifar10), tiny_imagenet, imagenet;
folder for all others). An .npz file has those of the data set in it. Alphas and learning rates are
those of the pair. Without --validation-fraction the last epoch and the best one on the test images
are reported, as in the papers. Reduced to a CPU:

    python -m letkd_keras.recipes.compare --data cifar100 --classes 20 --pair resnet20-resnet8 \
--epochs 20
"""

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.options import add_experiment_options
from letkd_keras.recipes.recipe_command import (
    add_jobs_option,
    exit_status,
    leave_gpu_memory,
    run_in_folder,
)
from letkd_keras.recipes.recipe_of_data import settings_of

# The methods of the paper's tables of results.
METHODS = (
    *("student", "kd", "dkd", "fitnet", "at", "sp", "vid", "crd", "simkd"),
    *("quest", "letkd1", "letkd2"),
)


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.recipes.compare", __doc__)
    add_experiment_options(
        parser, data="digits", methods=METHODS, out="runs/DATA/compare-TEACHER-STUDENT"
    )
    add_jobs_option(parser)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the recipe; returns the rows of its table."""
    options = parse(arguments)
    leave_gpu_memory(options.jobs)
    from letkd_keras.recipes.studies import grid

    def experiment():
        return experiment_of(options, settings_of(options))

    def compare(experiment, out):
        return grid.run(experiment, out, jobs=options.jobs), "table.md"

    return run_in_folder(options, experiment, compare, "compare-")


if __name__ == "__main__":
    run_main(lambda: exit_status(main()))
