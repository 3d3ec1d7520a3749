"""Export a student to SavedModel, TFLite or ONNX, and check the files.

    python -m letkd_keras.export MODEL --formats savedmodel tflite --out DIR

The student is written with its KD layers, without the teacher and without training code. Each
exported file, an artifact, is checked: it is loaded in a new process without this package and
compared with the student. card.json and card.md describe the artifacts. labels.txt has their
classes.

MODEL is the run folder of a recipe, the folder of one training (RUN/METHOD/seedN), the folder of a
sweep, or a .keras file of a student. A run folder knows its images. For a .keras file, give --data:
the images are used for the check, and by some formats for calibration.
"""

import argparse
from functools import partial

from letkd_keras import ranges
from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.commands.common_options import (
    add_data_options,
    add_formats_option,
    add_import_option,
    add_out_option,
    add_seed_option,
)
from letkd_keras.commands.log_file import logged_to, recorded
from letkd_keras.commands.option_types import choice, list_item, option_of, path
from letkd_keras.commands.terminal import print_table, print_text
from letkd_keras.export import formats
from letkd_keras.export.data_of_student import open_data
from letkd_keras.export.evaluation_images import (
    add_image_options,
    check_image_options,
    evaluation_images,
)
from letkd_keras.export.options import INPUTS, OUTPUTS, PRECISIONS, RANGES, ExportOptions
from letkd_keras.files import check_writable


def layer_precision(text):
    """Convert `LAYER=TYPE`, the type of the weights of a layer.

    Returns:
        `(layer, type)`.

    Raises:
        argparse.ArgumentTypeError: If it is something else.
    """
    layer, _, value = list_item(text).rpartition("=")
    if not layer or value not in PRECISIONS:
        raise argparse.ArgumentTypeError(
            f"must be LAYER=TYPE with a type of {', '.join(PRECISIONS)}. Received: {text!r}"
        )
    return layer, value


def _check_use(parser, options):
    """Refuse an option that none of the formats uses."""
    wanted = formats.expand(options.formats)
    rows = {name: formats.find(name) for name in formats.names()}
    users_of = {
        **formats.OPTIONS,
        "calibration_images": [name for name, row in rows.items() if row.needs_calibration],
        "min_agreement": [name for name, row in rows.items() if row.is_inexact],
    }
    for name, users in users_of.items():
        is_given = getattr(options, name) != parser.get_default(name)
        if is_given and not set(users) & set(wanted):
            received = " ".join(options.formats)
            return f"{option_of(name)} is for {', '.join(users)}. Received: --formats {received}"
    return None


def _check_without_images(options, wanted, student):
    """Refuse what needs the images of `--data`, if there are none.

    Raises:
        ValueError: If so.
    """
    # Imports Keras, for which `--help` does not wait.
    from letkd_keras.export.input_scaling import takes_pixels

    calibrated = [name for name in wanted if formats.find(name).needs_calibration]
    if calibrated:
        raise ValueError(
            "--data must be given, since these formats need training images: "
            f"{', '.join(calibrated)}. Received: none"
        )
    if options.input == "pixels" and not takes_pixels(student):
        raise ValueError(
            "--data must be given for --input pixels, since the student does not rescale pixels "
            "itself. Received: none"
        )


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.export", __doc__, epilog=f"formats: {', '.join(formats.names())}")
    add = parser.add_argument
    add(
        "model",
        type=path,
        metavar="MODEL",
        help="a run folder, the folder of one training or of a sweep, or a .keras file",
    )
    add_formats_option(parser)
    add_out_option(parser, required=True, help="folder to write into")
    add("--no-fold", action="store_true", help="write the student as trained, without folding")
    add(
        "--input",
        type=choice(*INPUTS),
        metavar="KIND",
        help="pixels: the artifacts take RGB values from 0 to 255; normalized: images as in "
        "training (default: pixels, where mean and standard deviation are known)",
    )
    add(
        "--output",
        type=choice(*OUTPUTS),
        metavar="KIND",
        default="logits",
        help="logits or probabilities",
    )
    add(
        "--integer-io",
        action="store_true",
        help="tflite-int8: integer inputs (uint8 for pixels) and int8 outputs as well",
    )
    add(
        "--snr",
        action="store_true",
        help="quantized TFLite formats: write the signal-to-noise ratio of each layer to the card",
    )
    add(
        "--precision",
        nargs="+",
        type=layer_precision,
        metavar="LAYER=TYPE",
        default=[],
        help="tflite-int4: types of the weights of single layers, such as 'kd_*=int8' or "
        "'conv1=float32'; a later one has priority (default: int4 everywhere)",
    )
    add(
        "--min-agreement",
        type=ranges.fraction,
        metavar="F",
        help="formats that are quantized or trained: smallest share of the test images with the "
        "same top-1 class (default: 0.95 to 0.99, or 99%% of the accuracy)",
    )
    add("--channels-first", action="store_true", help="onnx: images [N, C, H, W]")

    def add_number(name, help):
        default = getattr(ExportOptions, name)
        add(option_of(name), type=RANGES[name], metavar="N", default=default, help=help)

    add_number("opset", "onnx: version of the operators")
    trained = "tflite-qat, tflite-pruned, tflite-clustered: "
    add_number(
        "epochs",
        f"{trained}passes over the calibration images (default: 10 for tflite-pruned, 3 otherwise)",
    )
    add_number(
        "learning_rate",
        f"{trained}learning rate of Adam (default: 0.00001, 0.0003 and 0.0001)",
    )
    add_number("sparsity", "tflite-pruned: share of each kernel that becomes zero")
    add_number("clusters", "tflite-clustered: largest number of different values in each kernel")
    add_seed_option(parser)
    add_import_option(parser)
    add_image_options(parser, calibration=200)
    add_data_options(parser, default_text="the data set of a run folder, otherwise noise")
    parser.add_check(partial(_check_use, parser))
    parser.add_check(partial(check_image_options, parser))
    return parser.parse_args(arguments)


def _print_results(results, folder, is_noise):
    """Print a table of the files that were written.

    Args:
        results: `Exported` by format.
        folder: The folder of the files.
        is_noise: Whether the files were checked on noise.
    """
    has_labels = any(result.accuracy is not None for result in results.values())
    heads = ["format", "file", "bytes", "max difference", "same top-1"]
    print_table(
        [*heads, *(["accuracy"] if has_labels else [])],
        [
            [
                name,
                result.path.name,
                f"{result.bytes:,}",
                f"{result.max_difference:.1e}",
                "-" if is_noise else f"{100 * result.agreement:.2f}%",
                *([f"{100 * result.accuracy:.2f}%"] if has_labels else []),
            ]
            for name, result in results.items()
        ],
    )
    (first, *_) = results.values()
    accuracy = first.accuracy_before
    compared = f"\ncompared with the student in Keras on {first.num_images} images"
    known = " of noise, since no --data was given" if is_noise else ""
    known += "" if accuracy is None else f", where it has an accuracy of {100 * accuracy:.2f}%"
    print_text(f"{compared}{known}")
    print(f"written to {folder}, described in {folder / 'card.md'}", flush=True)


def main(arguments=None):
    """Export and print."""
    options = parse(arguments)
    wanted = formats.expand(options.formats)
    formats.check_installed(wanted)
    # TensorFlow is imported only after the options are parsed.
    from letkd_keras.export.comparison import ExportMismatch
    from letkd_keras.export.loading import load_student
    from letkd_keras.export.student import export_bundle

    check_writable(options.out, "out")
    with recorded() as messages:
        student = load_student(options.model)
        images, opened = None, open_data(options.model, options, student)
    if opened is None:
        _check_without_images(options, wanted, student)
    else:
        opened.check_is_outside(options.out)
        images = evaluation_images(
            opened.data, options.check_images, options.calibration_images, options.seed
        )
    limits = {} if options.min_agreement is None else {"min_agreement": options.min_agreement}
    refused = None
    with logged_to(options.out / "log.txt", messages):
        try:
            results = export_bundle(
                options.model,
                options.out,
                wanted,
                data_name=None if images is None else images.name,
                assumed_normalization=opened is not None and opened.is_assumed,
                verify={name: limits for name in wanted if formats.find(name).is_inexact},
                fold=not options.no_fold,
                integer_io=options.integer_io,
                input=options.input,
                output=options.output,
                snr=options.snr,
                precision=dict(options.precision),
                channels_first=options.channels_first,
                **{name: getattr(options, name) for name in RANGES},
                **({} if images is None else images.options()),
            )
        except ExportMismatch as mismatch:
            results, refused = mismatch.exported, mismatch
    if results:
        _print_results(results, options.out, is_noise=images is None)
    if refused is not None:
        raise refused


if __name__ == "__main__":
    run_main(main, interrupted="interrupted; artifacts that were finished are complete")
