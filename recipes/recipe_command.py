"""From the options of a recipe to its run and its report, also on several workers."""

from pathlib import Path

from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.terminal import print_report


def default_out(experiment, kind=""):
    """The folder of the results where `--out` is not given."""
    data = experiment.data.name.split(",")[0].replace(" ", "-").replace("/", "-")
    return Path("runs", data, f"{kind}{experiment.pair}")


def run_recipe(options, settings, measures=None):
    """Run the experiment of a recipe's options and print its report.

    Args:
        options: What a parser with `add_experiment_options` gave.
        settings: `Settings` of the recipe.
        measures: See `run`.

    Returns:
        The report as a dictionary.
    """
    exported = options.methods[-1]

    def run_experiment(experiment):
        from letkd_keras.recipes.run import run

        out = options.out or default_out(experiment)
        report = run(experiment, out, measures=measures)
        print_report(Path(out) / "report.md")
        print(f"\nEverything is in {out}")
        return report

    return run_on_workers(
        options, lambda: experiment_of(options, settings, export_method=exported), run_experiment
    )


def run_on_workers(options, make_experiment, command):
    """Run a recipe's command; where there are other workers, they share its trainings.

    Args:
        options: What a parser with `add_experiment_options` gave.
        make_experiment: Function that returns the `Experiment` of the options.
        command: Function of this experiment.

    Returns:
        What the command returns; `None` on other workers than the chief.
    """
    import keras

    from letkd_keras.recipes.experiments.experiment import OPEN_KEYS
    from letkd_keras.recipes.trainings import ray_workers, shared_training

    if options.engine == "ray":
        ray_workers.check(keras.backend.backend())
        experiment = make_experiment()
        with ray_workers.RayWorkers.running(options.workers, experiment):
            return command(experiment)
    return shared_training.run_on_workers(
        keras.backend.backend(), make_experiment, command, OPEN_KEYS
    )
