"""What lies behind the accuracies of a folder that `compare` has written.

    python -m letkd_keras.recipes.explain runs/cifar100/compare-resnet20-resnet8

This reads the finished trainings and writes

- explain.png: accuracy by epoch of all methods, mean and range over the trials,
- explain.md and explain.json: accuracy, agreement with the teacher, the KL divergences of the last
  epoch, how well linear discriminant analysis separates the classes before and after the
  intermediate KD layer (x and x_hat), and the epochs at which one method overtakes another.

Nothing is trained.
"""

from pathlib import Path

from letkd_keras.command_line import Parser, run_main
from letkd_keras.terminal import print_report


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.recipes.explain", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of `compare`")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the command; returns what `explain.json` contains."""
    options = parse(arguments)
    from letkd_keras.recipes.experiments.experiment import Experiment
    from letkd_keras.recipes.studies import explanation
    from letkd_keras.run_folder import read_config

    config = read_config(options.folder, "folder")
    experiment = Experiment.from_config(config)
    if experiment.data.digest != config["data"]["digest"]:
        raise ValueError(
            f"The images of {experiment.data.name} must be those of {options.folder}. They have "
            "changed since."
        )
    found = explanation.write(experiment, options.folder)
    print_report(options.folder / "explain.md")
    print(f"\nEverything is in {options.folder}")
    return found


if __name__ == "__main__":
    run_main(main)
