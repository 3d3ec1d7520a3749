"""Check exported files (artifacts) again.

    python -m letkd_keras.export.verify FOLDER --model MODEL

Every artifact that card.json lists is loaded in a new process and compared with the student. The
exit status is 1 if one is out of tolerance or not the file that was exported, and 2 if nothing
could be compared.

Loading a SavedModel can run code that it contains. Verify only artifacts of a source that you
trust.
"""

from functools import partial

from letkd_keras.commands.command_line import Parser, run_main
from letkd_keras.commands.common_options import add_data_options, add_import_option, add_seed_option
from letkd_keras.commands.option_types import path
from letkd_keras.export.data_of_student import open_data
from letkd_keras.export.evaluation_images import (
    add_image_options,
    check_image_options,
    evaluation_images,
)


def parse(arguments=None):
    """Parse the command line."""
    parser = Parser("letkd_keras.export.verify", __doc__)
    parser.add_argument("folder", type=path, metavar="FOLDER", help="folder with card.json")
    parser.add_argument(
        "--model",
        type=path,
        required=True,
        metavar="MODEL",
        help="the student that was exported: a run folder, the folder of one training or of a "
        "sweep, or a .keras file",
    )
    add_image_options(parser)
    add_seed_option(parser)
    add_import_option(parser)
    add_data_options(parser, default_text="the data set of a run folder, otherwise noise")
    parser.add_check(partial(check_image_options, parser))
    return parser.parse_args(arguments)


def main(arguments=None):
    """Verify and print.

    Returns:
        The exit status.
    """
    options = parse(arguments)
    # TensorFlow is imported only after the options are parsed.
    from letkd_keras.export.artifact_verification import verify_artifacts
    from letkd_keras.export.comparison import ExportMismatch
    from letkd_keras.export.loading import load_student

    student = load_student(options.model)
    opened = open_data(options.model, options, student)
    given = {}
    if opened is not None:
        test = evaluation_images(opened.data, options.check_images, 0, options.seed)
        given = {"images": test.images, "labels": test.labels}
    results = verify_artifacts(options.folder, student, **given)
    if not results:
        print(f"{options.folder} has no files in its card: nothing was compared")
        return 2
    failed = [name for name, result in results.items() if isinstance(result, ExportMismatch)]
    for name, result in results.items():
        print(f"{name}: {'FAILED: ' if name in failed else ''}{result}")
    if opened is None:
        print("compared on images of noise, since no --data was given")
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main, interrupted="interrupted")
