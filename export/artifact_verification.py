"""Checking the artifacts of a card again, for the command `verify`."""

from pathlib import Path

from letkd_keras.export import formats
from letkd_keras.export.card_file import options_of, read_card
from letkd_keras.export.comparison import ExportMismatch, compare, expected_outputs
from letkd_keras.export.images_and_labels import check_labels, images_for
from letkd_keras.export.loading import load_student
from letkd_keras.export.new_process import reload_outputs
from letkd_keras.files import checksum
from letkd_keras.functional.fingerprint import fingerprint


def verify_artifacts(folder, model, *, images=None, labels=None):
    """Compare every artifact of a card with the student, each reloaded in a new process.

    Loading a SavedModel can run code that it contains: the artifacts must be of a source that you
    trust. Files outside the folder are never opened.

    Args:
        folder: Folder with `card.json`, as an export writes it.
        model: The student that was exported, as `export_student` accepts it.
        images: Array [N, H, W, C], normalized as for the student, or uint8 if the card says how
            pixels are normalized; `None`: eight images of noise, for which the top-1 classes are
            not compared.
        labels: Their classes, integers [N] or [N, 1], or one-hot, for accuracies.

    Returns:
        Dictionary by format: a `Comparison`, or the `ExportMismatch` if the artifact failed.

    Raises:
        FileNotFoundError: If there is no card or no model.
        ValueError: If the card is damaged, describes another student or lists a file outside the
            folder, or the images do not fit.
        ImportError: If what runs an artifact is not installed.
    """
    folder, card = Path(folder), read_card(folder)
    formats.check_installed(card["artifacts"], to_write=False)
    student = load_student(model)
    if card["student"] != fingerprint(student):
        raise ValueError(
            f"`model` must be the student that was exported to {str(folder)!r}: its weights differ "
            f"from those in the card. Received: model={student.name!r}"
        )
    real, options = images is not None, options_of(card)
    images = images_for(student, images, options=options)
    labels = check_labels(labels, images, student.output_shape[-1])
    reference = expected_outputs(student, images, options)
    results = {}
    for name, artifact in card["artifacts"].items():
        try:
            file = folder / artifact["file"]
            if not file.exists() or checksum(file) != artifact["sha256"]:
                raise ExportMismatch(f"{file} is missing, or not the file that the card lists.")
            logits = reload_outputs(formats.find(name).runtime, file, images)
            results[name] = compare(reference, logits, labels)
            least = artifact["min_agreement"] if real else None
            results[name].check(name, artifact["tolerance"], least, artifact["min_accuracy"])
        except ExportMismatch as mismatch:
            results[name] = mismatch
    return results
