"""Fit, inspect and draw a teacher's prototypes.

Fit the prototypes. The same command continues an interrupted fit after its last finished step:

    python -m letkd_keras.prototypes --teacher teacher.keras --data cifar100 --out prototypes.npz

Use all feature vectors in the k-means instead of a sample. They are kept on disk during the fit:

    python -m letkd_keras.prototypes ... --feature-cache float32

Run the teacher in two processes of Ray (the extra `ray`), each with a GPU if there are any. Where
RAY_ADDRESS names a Ray cluster, they run there:

    python -m letkd_keras.prototypes ... --engine ray --workers 2

Print how the prototypes in a file were fitted, and draw them:

    python -m letkd_keras.prototypes --inspect prototypes.npz --pictures DIR
    python -m letkd_keras.prototypes --inspect prototypes.npz --pictures DIR --teacher T --data D
"""

import functools
from pathlib import Path

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.commands.common_options import (
    add_data_options,
    add_engine_options,
    add_import_option,
    add_out_option,
    add_prototype_options,
    add_seed_option,
)
from letkd_keras.commands.option_types import choice, output_file, path, text
from letkd_keras.levels import LEVELS
from letkd_keras.ranges import positive_integer


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.prototypes", __doc__)
    add = parser.add_argument
    add("--teacher", type=path, metavar="FILE", help="the teacher, a .keras or .onnx file")
    add_data_options(parser)
    add_prototype_options(parser)
    add(
        "--levels",
        nargs="+",
        type=choice(*LEVELS),
        metavar="LEVEL",
        help="penultimate, or penultimate intermediate (default: both where the teacher has a "
        "layer for both)",
    )
    for level in LEVELS:
        add(
            f"--teacher-{level}-layer",
            type=text,
            metavar="NAME",
            help=f"the teacher's {level} layer (default: a suggested one)",
        )
    add(
        "--pool-size",
        type=positive_integer,
        metavar="N",
        default=1,
        help="2 halves the teacher's grid, where the student's is half of it",
    )
    add("--batch-size", type=positive_integer, metavar="N", default=256, help="images per batch")
    add_seed_option(parser)
    add_out_option(parser, type=output_file(".npz"), help="the .npz file to write")
    add("--workdir", type=path, metavar="DIR", help="folder of finished steps (default: OUT.work)")
    add_engine_options(parser)
    add_import_option(parser)
    add(
        "--inspect",
        type=path,
        metavar="FILE",
        help="print how prototypes were fitted, and their health",
    )
    add("--pictures", type=path, metavar="DIR", help="with --inspect: draw pictures into DIR")
    options = parser.parse_args(arguments)
    if options.inspect is None:
        for name in ("teacher", "data", "out"):
            if getattr(options, name) is None:
                parser.error(f"--{name} is needed to fit prototypes (or use --inspect FILE)")
        if options.pictures is not None:
            parser.error("--pictures needs --inspect FILE")
        options.workdir = options.workdir or Path(f"{options.out}.work")
        _check_out(parser, options)
    elif (options.teacher is None) != (options.data is None):
        parser.error(
            "--inspect takes --teacher and --data together: --pictures draws maps with both"
        )
    elif options.teacher is not None and options.pictures is None:
        parser.error("--inspect takes --teacher and --data only with --pictures DIR")
    return options


def main(arguments=None):
    """Fit or inspect prototypes."""
    options = parse(arguments)
    if options.inspect is not None:
        _inspect(options)
    else:
        _fit(options)


def _fit(options):
    from letkd_keras.data import DataSpec
    from letkd_keras.errors import argument_renamed
    from letkd_keras.files import check_writable
    from letkd_keras.functional import load_model
    from letkd_keras.prototypes import fit_prototypes, remove_workdir

    check_writable(options.out.absolute().parent, "out")
    spec = DataSpec.from_options(options)
    teacher = load_model(options.teacher, "teacher")
    data = spec.open()
    images, preprocess = _training_images(data, options.batch_size)
    with (
        argument_renamed("penultimate_layer", "teacher_penultimate_layer"),
        argument_renamed("intermediate_layer", "teacher_intermediate_layer"),
        data.broken_files_named(),
    ):
        prototypes = fit_prototypes(
            teacher,
            images,
            templates=options.templates,
            subclasses=options.subclasses,
            components=options.components,
            levels=options.levels,
            penultimate_layer=options.teacher_penultimate_layer,
            intermediate_layer=options.teacher_intermediate_layer,
            pool_size=options.pool_size,
            iterations=options.iterations,
            seed=options.seed,
            memory=options.memory,
            feature_cache=None if options.feature_cache == "none" else options.feature_cache,
            workdir=options.workdir,
            preprocess=preprocess,
            batch_size=options.batch_size,
            data_name=f"{data.name} ({data.split})" if data.split else data.name,
            class_names=data.class_names,
            engine=options.engine,
            workers=options.workers,
        )
    prototypes.save(options.out)
    remove_workdir(options.workdir)
    print(f"{options.out}: {_summary(prototypes)}")


def _summary(prototypes):
    """What was fitted, in a few words."""
    kinds = {"penultimate": "centers", "intermediate": "sub-classes"}
    parts = []
    for level in prototypes.levels:
        part = getattr(prototypes, level)
        height, width = part.grid
        parts.append(f"{len(part.centers):,} {kinds[level]} of {part.layer}, grid {height}x{width}")
    return "; ".join(parts)


def _inspect(options):
    from rich.console import Console

    from letkd_keras.files import check_writable
    from letkd_keras.prototypes import Prototypes

    if options.pictures is not None:
        check_writable(options.pictures, "pictures")
    prototypes = Prototypes.load(options.inspect)
    console = Console()
    manifest = dict(prototypes.manifest)
    health = manifest.pop("health", {})
    for title, values in (("manifest", manifest), *health.items()):
        console.print(_table(title, values))
    if options.pictures is None:
        return
    from letkd_keras.data import DataSpec
    from letkd_keras.functional import load_model
    from letkd_keras.prototypes.pictures import draw

    teacher = images = preprocess = class_names = None
    if options.teacher is not None:
        teacher = load_model(options.teacher, "teacher")
        data = DataSpec.from_options(options).open()
        images, preprocess = _training_images(data, options.batch_size)
        class_names = data.class_names
    for file in draw(
        prototypes,
        options.pictures,
        teacher,
        images,
        preprocess=preprocess,
        class_names=class_names,
    ):
        print(file)


def _training_images(data, batch_size):
    """The training images for `fit_prototypes`, and what normalizes them."""
    from letkd_keras.data import NumberedBatches
    from letkd_keras.data.normalization import normalize

    if data.in_memory:
        normalized = functools.partial(normalize, mean=data.mean, std=data.std)
        return (data.x_train, data.y_train), normalized
    return NumberedBatches(data, batch_size, "train"), None


def _table(title, values):
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # nothing is cut off
    for name, value in values.items():
        table.add_row(name, Text(_text(value)))  # names may have brackets, which are no markup
    return table


def _text(value):
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_line(inner)}" for name, inner in value.items())
    return _line(value)


def _line(value):
    if isinstance(value, dict) and "sha256" in value:
        return f"{value['dtype']} {value['shape']}, sha256 {value['sha256'][:12]}"
    if isinstance(value, list) and len(value) > 10:
        return f"{len(value)} values, {value[0]} to {value[-1]}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


def _check_out(parser, options):
    workdir = options.workdir.resolve()
    if options.out.resolve().is_relative_to(workdir):
        parser.error(
            "--out must not be in the folder of --workdir, which is removed at the end. "
            f"Received: {str(options.out)!r} in {str(options.workdir)!r}"
        )


if __name__ == "__main__":
    run_main(main)
