"""What recipes and studies have in common: their folder, their run, also on several workers."""

import os
from pathlib import Path

from letkd_keras.commands.terminal import print_report
from letkd_keras.ranges import positive_integer
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of


def default_out(experiment, kind=""):
    """The folder of the results where `--out` is not given."""
    data = experiment.data.name.split(",")[0].replace(" ", "-").replace("/", "-")
    return Path("runs", data, f"{kind}{experiment.pair}")


def add_jobs_option(parser):
    """Add `--jobs`."""
    parser.add_argument(
        "--jobs",
        type=positive_integer,
        metavar="N",
        default=1,
        help="students that are trained at the same time",
    )


def leave_gpu_memory(jobs):
    """Have this process take no more GPU memory than it needs, where others train beside it.

    It has to be called before the backend uses a GPU.
    """
    if jobs > 1:
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def print_results(path):
    """Print a report, or the path of a picture, and the folder that everything is in.

    Args:
        path: The file.
    """
    if path.suffix == ".md":
        print_report(path)
    else:
        print(path)
    print(f"\nEverything is in {path.parent}")


def exit_status(result):
    """The exit status of a command that trains many students: 1 if one of its trainings failed.

    A failure of an earlier start counts only if this start tried the training again.

    Args:
        result: What its `main` returned; only rows of `grid.run` name failed trainings.
    """
    rows = result if isinstance(result, list) else []
    return int(any(row.get("failed_now") for row in rows))


def run_recipe(options, settings, measures=None):
    """Run the experiment of a recipe's options and print its report.

    Args:
        options: What a parser with `add_experiment_options` gave.
        settings: `Settings` of the recipe.
        measures: See `run`.

    Returns:
        The report as a dictionary.
    """

    def run_experiment(experiment, out):
        from letkd_keras.recipes.run import run

        return run(experiment, out, measures=measures), "report.md"

    return run_in_folder(options, lambda: experiment_of(options, settings), run_experiment)


def run_in_folder(options, make_experiment, command, kind=""):
    """Run a command in the folder of its results, and print these.

    Where there are other workers, they share its trainings.

    Args:
        options: What a parser with `add_experiment_options` gave.
        make_experiment: Function that returns the `Experiment` of the options.
        command: Function of this experiment and of the folder that returns a result, and the name
            of the file that is printed.
        kind: What the name of the folder begins with where `--out` is not given.

    Returns:
        The result; `None` on other workers than the chief.
    """
    import keras

    from letkd_keras.recipes.experiments.experiment import OPEN_KEYS
    from letkd_keras.recipes.workers import ray_workers, shared_training

    def run(experiment):
        out = options.out or default_out(experiment, kind)
        result, file = command(experiment, out)
        print_results(out / file)
        return result

    backend = keras.backend.backend()
    if options.engine == "ray":
        ray_workers.check(backend)
        experiment = make_experiment()
        with ray_workers.RayWorkers.running(options.workers, experiment):
            return run(experiment)
    return shared_training.lead_or_serve(backend, make_experiment, run, OPEN_KEYS)
