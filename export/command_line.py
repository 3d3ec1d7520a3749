"""What the command lines of the export share."""

import json
import logging
import os
import signal
import sys
from pathlib import Path

from letkd_keras.export.evaluation_images import load_evaluation_images


def add_data_options(parser):
    """Options that say on which images an export is checked."""
    parser.add_argument(
        "--data",
        help="digits, cifar10, cifar100 or an .npz file with images (and perhaps labels, "
        "calibration, mean, std, class_names); default: the data set of a run folder, else noise",
    )
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets")
    parser.add_argument("--test-images", type=int, default=1000, help="images to check on, at most")
    parser.add_argument(
        "--calibration-images", type=int, default=200, help="training images for int8, at most"
    )


def images_from(options):
    """`EvaluationImages` as the options say, or `None` where there is no data set."""
    name = data_name(options)
    if name is None:
        return None
    return load_evaluation_images(
        name, options.data_dir, options.test_images, options.calibration_images
    )


def data_name(options):
    """The data set that the options name, or that of the run or sweep they name; else `None`."""
    if options.data:
        return options.data
    for name in ("config.json", "sweep.json"):
        file = Path(options.model) / name
        if file.is_file():
            return json.loads(file.read_text()).get("data")
    return None


def run_main(main):
    """Run a `main()` that returns an exit status; its refusals are one line and status 2.

    Interrupted or terminated, it removes what it was writing and ends with status 130 or 143.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("letkd_keras").setLevel(logging.INFO)
    try:
        return main()
    except (ValueError, FileNotFoundError, ImportError) as error:
        if os.environ.get("LETKD_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was finished is there, nothing else", file=sys.stderr)
        return 128 + signal.SIGINT
