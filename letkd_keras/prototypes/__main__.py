"""Fit, inspect and draw prototypes from the command line: see `--help`."""

import argparse
import logging
import resource
import sys
from pathlib import Path

import keras
from rich.console import Console
from rich.table import Table

from letkd_keras.prototypes.prototype_fit import PrototypeFit
from letkd_keras.prototypes.prototypes import Prototypes
from letkd_keras.prototypes.sources import open_data

_EPILOG = """examples:
  fit; run again after an interruption to go on from the last finished stage:
    %(prog)s --teacher teacher.keras --data tfds:cifar100 --data-dir DIR --out prototypes.npz
  the same with all feature vectors in the k-means, on disk meanwhile, instead of a sample:
    %(prog)s ... --cache float32
  in four processes or machines, until the merge says that the file is written:
    %(prog)s ... --workdir SHARED --shard 0/4   (to 3/4)
    %(prog)s ... --workdir SHARED --merge 4
  look at a file:
    %(prog)s --inspect prototypes.npz --pictures FOLDER [--teacher ... --data ...]
"""


def main(arguments=None):
    """Run the command line.

    Args:
        arguments: List of strings; `None` takes those of the process.

    Returns:
        Exit status: 0, or 2 after an error, which is printed as one line.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("letkd_keras").setLevel(logging.INFO)
    options = _parser().parse_args(arguments)
    try:
        if options.inspect is not None:
            _inspect(options)
        else:
            _fit(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _fit(options):
    missing = [name for name in ("teacher", "data", "out") if getattr(options, name) is None]
    if missing:
        raise ValueError(f"--{missing[0]} is needed to fit prototypes, or --inspect FILE")
    workdir = options.workdir or f"{options.out}.work"
    images, labels, preprocess, class_names = open_data(
        options.data, options.data_dir, options.train_examples
    )
    fit = PrototypeFit(
        _load_teacher(options.teacher),
        (images, labels),
        options.templates,
        options.subclasses,
        options.components,
        options.seed,
        penultimate=options.penultimate,
        intermediate=None if options.intermediate == "none" else options.intermediate,
        pool=options.pool,
        iterations=options.iterations,
        memory=options.memory,
        cache=options.cache,
        workdir=workdir,
        preprocess=preprocess,
        batch_size=options.batch_size,
        data_name=options.data,
        class_names=class_names,
    )
    print(f"peak memory before the first stage: {_peak_mib():.0f} MiB")
    if options.shard is not None:
        stage = fit.run_shard(*options.shard)
        print(f"done: {stage}" if stage else "nothing to do: no pass waits for shards")
        return
    prototypes = fit.run() if options.merge is None else fit.merge(options.merge)
    if prototypes is None:
        print("merged; run every shard again for the next pass, then merge again")
        return
    prototypes.save(options.out)
    fit.stages.remove_all()
    print(f"written: {options.out}; peak memory {_peak_mib():.0f} MiB")


def _inspect(options):
    prototypes = Prototypes.load(options.inspect)
    console = Console()
    manifest = dict(prototypes.manifest)
    health = manifest.pop("health", {})
    for title, values in (("manifest", manifest), *health.items()):
        console.print(_table(title, values))
    if options.pictures is not None:
        from letkd_keras.prototypes.pictures import draw

        teacher = data = None
        if options.teacher is not None and options.data is not None:
            teacher = _load_teacher(options.teacher)
            data = open_data(options.data, options.data_dir)
        for path in draw(prototypes, options.pictures, teacher, data):
            print(f"drawn: {path}")


def _table(title, values):
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in values.items():
        table.add_row(name, _text(value))
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
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _load_teacher(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"No teacher at {path}")
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever the file made it stumble over
        raise ValueError(f"{path} is no Keras model that can be loaded: {error}") from error


def _peak_mib():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.prototypes",
        description="Fit, inspect and draw a teacher's prototypes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--teacher", metavar="FILE", help="a .keras file")
    add("--data", help="digits, tfds:NAME, or an .npz file with x_train and y_train")
    add("--data-dir", metavar="DIR", help="folder of tensorflow-datasets")
    add("--train-examples", type=int, metavar="N", help="take only N images")
    add("--out", metavar="FILE", help="the .npz file to write")
    add("--templates", type=int, default=4096, help="penultimate clusters (%(default)s)")
    add("--subclasses", type=int, default=8, help="sub-classes of a class (%(default)s)")
    add("--components", type=int, default=60, help="LDA components (%(default)s)")
    add("--seed", type=int, default=0)
    add("--penultimate", default="penultimate", metavar="LAYER", help="its tap (%(default)s)")
    add("--intermediate", default="intermediate", metavar="LAYER", help="its tap, or none")
    add("--pool", type=int, default=1, help="2 halves the teacher's grid")
    add("--iterations", type=int, default=20, help="of each k-means (%(default)s)")
    add("--batch-size", type=int, default=256)
    add("--memory", type=_bytes, default=2**28, help="for feature vectors, e.g. 1G (256M)")
    add("--cache", choices=("float32", "float16"), help="keep all feature vectors on disk")
    add("--workdir", metavar="DIR", help="finished stages (default: next to --out)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--shard", type=_shard, metavar="I/N", help="do part I, from 0, of N")
    group.add_argument("--merge", type=int, metavar="N", help="merge N parts and go on")
    add("--inspect", metavar="FILE", help="print the manifest and health of prototypes")
    add("--pictures", metavar="DIR", help="with --inspect: draw what was learned")
    return parser


def _shard(text):
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise argparse.ArgumentTypeError(f"expected I/N such as 0/4. Received: {text!r}")
    return int(index), int(count)


def _bytes(text):
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    try:
        return int(float(number) * unit)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number of bytes such as 800M or 2G. Received: {text!r}"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
