"""Run the ablations and draw the figures of the paper, on any data set.

    python -m letkd_keras.recipes.ablations alphas --data cifar100 --pair resnet56-resnet20
    python -m letkd_keras.recipes.ablations subclasses --values 2 4 8 16
    python -m letkd_keras.recipes.ablations templates --values 256 1024 4096
    python -m letkd_keras.recipes.ablations probe
    python -m letkd_keras.recipes.ablations tsne
    python -m letkd_keras.recipes.ablations time --values 64 256 1024 4096
    python -m letkd_keras.recipes.ablations subclass-map --data cifar10 --pair resnet56-resnet20

`alphas` trains the eight combinations of both levels' alphas (supplement, Table 5), `fitnet` FitNet
with and without a KD layer (Table 6).

`templates`, `subclasses` (supplement, figure 1), `components`, `iterations`, `temperature`,
`penultimate-alpha`, `intermediate-alpha`, `penultimate-weight`, `intermediate-weight`,
`learning-rate`, `template-scale`, `kd-learning-rate-factor`, `student-penultimate-layer` and
`student-intermediate-layer` train students for each of `--values` under one teacher and
write values.md, values.csv and values.png (accuracy by value).

`probe` classifies the pooled features before and after the intermediate KD layer, x and x_hat, by
linear discriminant analysis (Table 4). `tsne` draws the values, x and x_hat of a trained student's
KD layers by t-SNE. `time` measures the time for one image with so many templates. `subclass-map`
draws, for some images, each location's sub-class beside the histogram of its target over all
sub-classes (figure 2).

Other options are those of `compare`. The same command continues where it was interrupted.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from letkd_keras.commands import option_types
from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.levels import LEVELS
from letkd_keras.recipes.experiments.experiment_from_options import experiment_of
from letkd_keras.recipes.experiments.options import add_experiment_options
from letkd_keras.recipes.recipe_command import (
    add_jobs_option,
    exit_status,
    leave_gpu_memory,
    run_in_folder,
)
from letkd_keras.recipes.recipe_of_data import settings_of
from letkd_keras.recipes.studies.swept_settings import SWEPT_SETTINGS, parse_values

log = logging.getLogger("letkd_keras")

TIMED = (64, 128, 256, 512, 1024, 2048, 4096)


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.recipes.ablations", __doc__)
    parser.add_argument(
        "ablation",
        type=option_types.choice(*ABLATIONS),
        metavar="ABLATION",
        help=", ".join(ABLATIONS),
    )
    parser.add_argument(
        "--values",
        nargs="+",
        metavar="VALUE",
        type=option_types.list_item,
        help="values to try, separated by spaces",
    )
    add_experiment_options(
        parser, data="digits", methods=(), out="runs/DATA/ABLATION-TEACHER-STUDENT"
    )
    add_jobs_option(parser)
    options = parser.parse_args(arguments)
    if options.ablation in SWEPT_SETTINGS and not options.values:
        parser.error(f"--values must be given: {options.ablation} to try")
    if options.values:
        setting = ABLATIONS[options.ablation].values_of
        if setting is None:
            parser.error(f"--values does not apply to {options.ablation}")
        options.values = parse_values(parser, setting, options.values)
    if options.ablation in SWEPT_SETTINGS:
        _check_other_options(parser, options)
    options.methods = options.methods or ABLATIONS[options.ablation].methods
    return options


def _check_other_options(parser, options):
    """Refuse options that contradict the values of a swept setting."""
    name = options.ablation
    field = name.replace("-", "_")
    if getattr(options, field) != parser.get_default(field):
        parser.error(f"--{name} has no effect where --values are those of {name}: leave it out")
    if options.growth is not None:
        if name in ("templates", "subclasses"):
            parser.error(f"--growth chooses {name} itself: leave it out")
        if name.endswith("-alpha") and 0 in options.values:
            # A layer with alpha 0 is not needed at inference, so that all growth is the other's.
            parser.error(
                "--growth chooses other numbers of templates for the value 0: give --templates and "
                "--subclasses in its place"
            )
    if name == "learning-rate" and options.scale_learning_rate:
        parser.error("--scale-learning-rate does not apply to the values of learning-rate")


def main(arguments=None):
    """Run an ablation; returns the rows of its table, or the path of its picture."""
    options = parse(arguments)
    leave_gpu_memory(options.jobs)
    name = options.ablation
    ablation = ABLATIONS[name]

    for option in ("trials", "jobs"):
        if getattr(options, option) > 1 and not ablation.trains_students:
            log.warning("--%s has no effect: %s trains no students.", option, name)

    def experiment():
        _check_methods(name, options.methods)
        return experiment_of(options, settings_of(options))

    return run_in_folder(options, experiment, partial(ablation.run, options), f"{name}-")


def _check_methods(name, methods):
    """Refuse methods whose students have not the KD layer that the ablation reads."""
    from letkd_keras.recipes.experiments.methods import layers_of

    reads = ABLATIONS[name].reads
    for method in methods:
        if reads and not set(reads) & set(layers_of([method])):
            what = "an intermediate KD layer" if reads == ("intermediate",) else "KD layers"
            raise ValueError(
                f"`methods` of {name} must have {what}. Received: methods={' '.join(methods)}"
            )


def _run_table(options, experiment, out):
    from letkd_keras.recipes.studies import grid

    return grid.run(experiment, out, jobs=options.jobs), "table.md"


def _run_values(options, experiment, out):
    from letkd_keras.recipes.studies import value_sweep

    setting = SWEPT_SETTINGS[options.ablation]
    rows = value_sweep.run(experiment, setting, options.values, out, jobs=options.jobs)
    return rows, "values.md"


def _run_probe(options, experiment, out):
    from letkd_keras.recipes.studies import grid, probe

    table = grid.run(experiment, out, jobs=options.jobs)
    probe.write(experiment, out)
    return table, "probe.md"


def _run_tsne(options, experiment, out):
    from letkd_keras.recipes.experiments.methods import without_intermediate_level
    from letkd_keras.recipes.studies import grid, tsne

    trained = [row["method"] for row in grid.run(experiment, out, jobs=options.jobs)]
    method = experiment.methods[0]
    if method not in trained:
        method = without_intermediate_level(method)
    return tsne.write(experiment, out, method), "tsne.png"


def _run_time(options, experiment, out):
    from letkd_keras.recipes.studies import layer_time

    return layer_time.write(experiment, out, options.values or TIMED), "time.md"


def _run_subclass_map(options, experiment, out):
    from letkd_keras.recipes.studies import subclass_map

    return subclass_map.write(experiment, out), "subclass_map.png"


@dataclass(frozen=True)
class Ablation:
    """An ablation, or a figure.

    Attributes:
        run: Function of options, experiment and folder that returns what `main` returns, and the
            name of the file that is printed.
        methods: Methods of the students, where `--methods` names no others.
        values_of: Name of the `SweptSetting` that `--values` are values of; `None` for no values.
        reads: Levels of KD layers; every method must have one of them.
        trains_students: Whether students are trained at all.
    """

    run: Callable
    methods: tuple = ("letkd2",)
    values_of: str | None = None
    reads: tuple = ()
    trains_students: bool = True


_ALPHAS = (
    *("letkd_i0", "letkd_i1", "quest", "letkd1"),
    *("letkd_i0p0", "letkd_i0p1", "letkd_i1p0", "letkd2"),
)
ABLATIONS = {
    # Tables of the supplement.
    "alphas": Ablation(_run_table, _ALPHAS),
    "fitnet": Ablation(_run_table, ("fitnet", "fitnet_layer", "fitnet_letkd")),
    **{
        name: Ablation(_run_values, setting.methods, values_of=name)
        for name, setting in SWEPT_SETTINGS.items()
    },
    # letKD-2 with intermediate alpha 0 is the reference.
    "probe": Ablation(_run_probe, ("letkd_i0p1", "letkd2"), reads=("intermediate",)),
    "tsne": Ablation(_run_tsne, reads=LEVELS),
    "time": Ablation(_run_time, values_of="templates", trains_students=False),
    "subclass-map": Ablation(_run_subclass_map, reads=("intermediate",), trains_students=False),
}


if __name__ == "__main__":
    run_main(lambda: exit_status(main()))
