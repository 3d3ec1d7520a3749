"""Check exported artifacts again: `python -m letkd_keras.export.verify FOLDER --model MODEL`."""

import argparse
import sys
from pathlib import Path

from letkd_keras.export import formats
from letkd_keras.export.card import checksum, fingerprint, read_card
from letkd_keras.export.command_line import add_data_options, images_from, run_main
from letkd_keras.export.loading import load_student
from letkd_keras.export.verification import (
    ExportMismatch,
    check_labels,
    compare,
    images_for,
    logits_of,
    reload_outputs,
)


def verify(folder, model, *, images=None, labels=None):
    """Compare every artifact of a card with the student, each reloaded in a fresh process.

    Args:
        folder: Folder with `card.json`, as an export writes it.
        model: The student that was exported, as `export_student` takes it.
        images: Array [N, H, W, C], normalised; `None`: a few of noise, on which only float formats
            are asked for the same classes.
        labels: Their classes [N], for accuracies.

    Returns:
        Dictionary, by format, of a `Comparison`, or of the `ExportMismatch` where it failed.

    Raises:
        FileNotFoundError: If there is no card or no model.
        ValueError: If the card is another student's, or the images do not fit.
    """
    folder, card, student = Path(folder), read_card(folder), load_student(model)
    if card["student"] != fingerprint(student):
        raise ValueError(
            f"`model` must be the student whose export {str(folder)!r} is: its weights are others. "
            f"Received: model={student.name!r}"
        )
    real = images is not None
    images = images_for(student, images)
    labels = check_labels(labels, images)
    reference = logits_of(student, images)
    results = {}
    for name, artifact in card["artifacts"].items():
        try:
            path = folder / artifact["file"]
            if not path.exists() or checksum(path) != artifact["sha256"]:
                raise ExportMismatch(f"{path} is missing or not the file that the card lists.")
            logits = reload_outputs(formats.find(name).runtime, path, images)
            results[name] = compare(reference, logits, labels)
            least = artifact["min_agreement"] if real else None
            results[name].check(name, artifact["tolerance"], least)
        except ExportMismatch as mismatch:
            results[name] = mismatch
    return results


def parse(arguments=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m letkd_keras.export.verify",
        description="Reload every artifact of an export in a fresh process and compare it with the "
        "student. Exit status 1 if one is out of tolerance, 2 if nothing could be compared.",
    )
    parser.add_argument("folder", type=Path, help="folder with card.json")
    parser.add_argument("--model", type=Path, required=True, help="the student, as exported")
    add_data_options(parser)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Verify and print; returns the exit status."""
    options = parse(arguments)
    data = images_from(options)
    given = {} if data is None else {"images": data.images, "labels": data.labels}
    results = verify(options.folder, options.model, **given)
    failed = [name for name, result in results.items() if isinstance(result, ExportMismatch)]
    for name, result in results.items():
        print(f"{name}: {'FAILED: ' if name in failed else ''}{result}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
