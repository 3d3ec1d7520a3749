"""Find how few templates are enough for an exported student.

    python -m letkd_keras.export.sweep MODEL --out DIR

The student's templates are reduced to several numbers. Each is measured: accuracy, size and
latency. The smallest number within the allowed accuracy loss is selected on validation images, or
on training images that the reduction was not fitted to; never on test images, whose accuracy is
reported only. The folder, with the selected model in reduced.keras, can be exported like a run
folder.
"""

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.commands.common_options import (
    add_data_options,
    add_import_option,
    add_out_option,
    add_seed_option,
)
from letkd_keras.commands.log_file import logged_to, recorded
from letkd_keras.commands.option_types import choice, path
from letkd_keras.commands.terminal import print_report
from letkd_keras.export import formats
from letkd_keras.export.data_of_student import open_data
from letkd_keras.export.evaluation_images import add_image_options, selection_images, take
from letkd_keras.export.student_folder import check_sweep_folder, provenance_of
from letkd_keras.files import check_writable
from letkd_keras.ranges import non_negative_integer, non_negative_number, positive_integer


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.export.sweep", __doc__)
    add = parser.add_argument
    add(
        "model",
        type=path,
        metavar="MODEL",
        help="a run folder, the folder of one training, or a .keras file",
    )
    add_out_option(parser, required=True, help="folder to write into")
    add(
        "--templates",
        nargs="+",
        type=positive_integer,
        metavar="N",
        default=[32, 64, 128, 256, 512, 1024],
        help="numbers of templates of each KD layer to try",
    )
    add(
        "--max-loss",
        type=non_negative_number,
        metavar="POINTS",
        default=0.2,
        help="accuracy that may be lost on the images for selection, in percentage points",
    )
    add(
        "--format",
        type=choice(*formats.names()),
        metavar="FORMAT",
        default="tflite",
        help=f"format to measure: {', '.join(formats.names())}",
    )
    add(
        "--student-epochs",
        type=non_negative_integer,
        metavar="N",
        default=0,
        help="epochs of training of each reduced student on the calibration images",
    )
    add_seed_option(parser)
    add_import_option(parser)
    add_image_options(parser, calibration=1000)
    add(
        "--selection-images",
        type=positive_integer,
        metavar="N",
        default=1000,
        help="validation or training images to select on, at most",
    )
    add_data_options(parser, default_text="the data set of a run folder")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Sweep, write and print."""
    options = parse(arguments)
    formats.check_installed([options.format])
    check_sweep_folder(options.out)
    # TensorFlow is imported only after the options are parsed.
    from letkd_keras.export.loading import load_student
    from letkd_keras.export.template_sweep import sweep, write_sweep

    check_writable(options.out, "out")
    with recorded() as messages:
        student = load_student(options.model)
        opened = open_data(options.model, options, student)
        training = provenance_of(options.model)
    if opened is None:
        raise ValueError(
            "`data` must be given, since `model` does not belong to a run folder. Received: none"
        )
    opened.check_is_outside(options.out)
    with logged_to(options.out / "log.txt", messages):
        result = sweep(
            student,
            selection_images(
                opened.data, options.selection_images, options.calibration_images, options.seed
            ),
            *take(opened.data, "test", options.check_images, options.seed),
            templates=options.templates,
            max_loss=options.max_loss,
            format=options.format,
            fine_tune_epochs=options.student_epochs,
            seed=options.seed,
        )
        write_sweep(result, options.out, data=opened.config, training=training)
    print_report(options.out / "sweep.md")
    print(f"\nThe selected student is in {options.out / 'reduced.keras'}")


if __name__ == "__main__":
    run_main(main, interrupted="interrupted; repeat the command")
