"""Show how the methods of a folder that `compare` has written differ.

    python -m letkd_keras.recipes.explain runs/cifar100/compare-resnet20-resnet8

This reads the finished trainings and writes

- explain.png: accuracy by epoch of all methods, mean and range over the trials,
- explain.md and explain.json: accuracy, agreement with the teacher, the KL divergences of the last
  epoch, how well linear discriminant analysis separates the classes before and after the
  intermediate KD layer (x and x_hat), and the epochs at which one method overtakes another.

Nothing is trained. If the images of the run are elsewhere now, `--data` names their new place, or
`--data-dir` that of the data sets of tensorflow-datasets.
"""

from letkd_keras.commands import option_types
from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.commands.common_options import add_import_option
from letkd_keras.recipes.recipe_command import print_results


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.recipes.explain", __doc__)
    add = parser.add_argument
    add("folder", type=option_types.path, metavar="FOLDER", help="folder of `compare`")
    add(
        "--data",
        type=option_types.text,
        metavar="SPEC",
        help="where the images of the run are now (default: where they were)",
    )
    path = option_types.path
    add("--data-dir", type=path, metavar="DIR", help="likewise the folder of tensorflow-datasets")
    add("--image-cache", type=path, metavar="DIR", help="likewise the folder of decoded images")
    add("--labels", type=path, metavar="FILE.csv", help="likewise its file of labels")
    add("--unlabelled", type=path, metavar="DIR", help="likewise its images without labels")
    add_import_option(parser)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the command; returns what `explain.json` contains."""
    options = parse(arguments)
    from letkd_keras.commands.run_folder import read_config
    from letkd_keras.recipes.experiments.experiment import Experiment
    from letkd_keras.recipes.studies import explanation

    config = read_config(options.folder, "folder")
    _move_data(config["data"], options)
    experiment = Experiment.from_config(config)
    found = explanation.write(experiment, options.folder)
    print_results(options.folder / "explain.md")
    return found


def _move_data(config, options):
    """Change a configuration of data to what the options name, and refuse one of no images."""
    from letkd_keras.data import DataSpec

    names = ("data_dir", "image_cache", "labels", "unlabelled")
    moved = {"source": options.data, **{name: getattr(options, name) for name in names}}
    config.update({name: str(value) for name, value in moved.items() if value is not None})
    try:
        DataSpec.from_config(config)
    except (ValueError, FileNotFoundError) as error:
        if options.data is not None or not str(error).startswith("`data`"):
            raise
        raise FileNotFoundError(
            f"The images of the run are no longer in {config['source']}. Name their new place by "
            "`data`."
        ) from error


if __name__ == "__main__":
    run_main(main)
