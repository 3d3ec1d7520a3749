"""Export a student: `python -m letkd_keras.export MODEL --format savedmodel,tflite --out DIR`."""

import argparse
import sys
from pathlib import Path

from letkd_keras.export import formats
from letkd_keras.export.bundle import export_bundle
from letkd_keras.export.command_line import add_data_options, images_from, run_main
from letkd_keras.export.loading import load_student
from letkd_keras.export.options import ExportOptions
from letkd_keras.export.student import check_writable


def parse(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.export",
        description="Write a student with its KD layers in formats that ship, each verified by "
        "reloading it in a fresh process without this package, and a card that describes them.",
    )
    parser.add_argument(
        "model", type=Path, help="a .keras file, a recipe's run folder or a sweep's"
    )
    parser.add_argument(
        "--format",
        default="savedmodel,tflite",
        help=f"all, or, comma-separated: {', '.join(formats.names())}",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    add_data_options(parser)
    parser.add_argument("--no-fold", action="store_true", help="write the student as trained")
    parser.add_argument("--integer-io", action="store_true", help="int8: inputs and outputs too")
    parser.add_argument("--channels-first", action="store_true", help="ONNX: images [N, C, H, W]")
    parser.add_argument("--opset", type=int, default=17, help="ONNX: version of the operators")
    trained = "qat, pruned, clustered: "
    parser.add_argument("--epochs", type=int, help=f"{trained}passes over the calibration images")
    parser.add_argument("--learning-rate", type=float, help=f"{trained}rate of Adam")
    parser.add_argument(
        "--sparsity", type=float, default=ExportOptions.sparsity, help="pruned: share that is zero"
    )
    parser.add_argument(
        "--clusters", type=int, default=ExportOptions.clusters, help="clustered: values in a kernel"
    )
    return parser.parse_args(arguments)


def main(arguments=None):
    """Export and print; returns the exit status."""
    options = parse(arguments)
    wanted = formats.names() if options.format == "all" else options.format.split(",")
    for name in wanted:
        formats.find(name)
    check_writable(options.out)
    load_student(options.model)
    data = images_from(options)
    results = export_bundle(
        options.model,
        options.out,
        wanted,
        data_name=data and data.name,
        fold=not options.no_fold,
        integer_io=options.integer_io,
        channels_first=options.channels_first,
        opset=options.opset,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        sparsity=options.sparsity,
        clusters=options.clusters,
        **(data.options() if data else {}),
    )
    for name, result in results.items():
        print(f"{name}: {result}")
    print(f"described in {options.out / 'card.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
