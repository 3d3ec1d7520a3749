"""The card of an export as its readers see it. Neither Keras nor TensorFlow is imported."""

import sys
from pathlib import Path

from letkd_keras.export import formats
from letkd_keras.export.options import INPUTS, OUTPUTS, ExportOptions
from letkd_keras.files import read_json, write_text

LABELS = "labels.txt"
_LARGEST_SIZE, _SMALLEST_CROP = 2**14, 1e-4


def read_card(path):
    """Read the card of a folder.

    The card may come from somebody else. Its artifacts must be the files and folders of the formats
    in this folder, so that nothing else is opened.

    Raises:
        FileNotFoundError: If the folder has no card.
        ValueError: If the card is damaged, or lists a file that is not an artifact in the folder.
    """
    file = Path(path) / "card.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"`folder` must be a folder with a card.json, as the export writes it. "
            f"Received: folder={str(path)!r}"
        )
    card = read_json(file)
    artifacts = card.get("artifacts") if isinstance(card, dict) else None
    if not isinstance(artifacts, dict) or not isinstance(card.get("student"), str):
        raise ValueError(f"{file} is damaged: it does not describe a student and its artifacts.")
    for name, artifact in artifacts.items():
        _check_artifact(file, name, artifact)
    _check_inputs(file, card.get("inputs"))
    if not isinstance(card.get("outputs"), dict) or card["outputs"].get("kind") not in OUTPUTS:
        raise ValueError(f"{file} is damaged: `outputs` must have one of {', '.join(OUTPUTS)}.")
    names = card.get("class_names")
    if not isinstance(names, list | None) or not all(isinstance(x, str) for x in names or ()):
        raise ValueError(f"{file} is damaged: `class_names` must be a list of texts or null.")
    return card


def options_of(card):
    """What the card says about inputs and outputs, as `ExportOptions`."""
    inputs = card["inputs"]
    return ExportOptions(
        input=inputs["kind"],
        output=card["outputs"]["kind"],
        mean=inputs["mean"] and tuple(inputs["mean"]),
        std=inputs["std"] and tuple(inputs["std"]),
        crop=inputs["crop"],
    )


def write_labels(path, class_names):
    """Write `labels.txt`, one class a line in the order of the outputs.

    Args:
        path: Folder.
        class_names: Names of the classes, texts of one line each; `None` for no file.
    """
    if class_names is not None:
        write_text(Path(path) / LABELS, "\n".join([*class_names, ""]))


def _check_artifact(card, name, artifact):
    file_name = formats.find(name, "artifacts").file_name
    limits = ("tolerance", "min_agreement", "min_accuracy")
    keys = {"file", "sha256", *limits}
    if not isinstance(artifact, dict) or not keys <= set(artifact):
        raise ValueError(
            f"{card} is damaged, or of an earlier version: {name} must have "
            f"{', '.join(sorted(keys))}. Export the student again."
        )
    for key in limits:
        if artifact[key] is not None and not _is_number(artifact[key]):
            raise ValueError(f"{card} is damaged: `{key}` of {name} must be a number or null.")
    if artifact["file"] != file_name:
        raise ValueError(
            f"{card} must list {file_name!r}, in the folder of the card, as its {name}. "
            f"Received: {artifact['file']!r}"
        )
    folder, path = card.parent.resolve(), card.parent / file_name
    files = [path, *(path.rglob("*") if path.is_dir() else ())]
    for entry in files:
        if not entry.resolve().is_relative_to(folder):
            raise ValueError(
                f"{path} must not contain links that lead outside its folder. Received: {entry}, a "
                f"link to {entry.resolve()}"
            )


def _check_inputs(card, inputs):
    keys = {"kind", "shape", "checked_size", "mean", "std", "crop"}
    if not isinstance(inputs, dict) or not keys <= set(inputs) or inputs["kind"] not in INPUTS:
        raise ValueError(
            f"{card} is damaged, or of an earlier version: `inputs` must have "
            f"{', '.join(sorted(keys))}. Export the student again."
        )
    for name, unknown in (("shape", (None,)), ("checked_size", ())):
        sizes = inputs[name]
        are_sizes = isinstance(sizes, list) and all(
            size in unknown or (isinstance(size, int) and 0 < size <= _LARGEST_SIZE)
            for size in sizes
        )
        if not are_sizes or (name == "shape" and not sizes):
            raise ValueError(f"{card} is damaged: `{name}` must be a list of sizes.")
    mean, std, crop = (inputs[key] for key in ("mean", "std", "crop"))
    known = (mean is None) == (std is None) and all(
        isinstance(values, list) and all(map(_is_number, values))
        for values in (mean, std)
        if values is not None
    )
    if not known or (std is not None and min(std, default=0) <= 0):
        raise ValueError(f"{card} is damaged: `mean` and `std` must be lists of numbers or null.")
    if not _is_number(crop) or not _SMALLEST_CROP <= crop <= 1:
        raise ValueError(f"{card} is damaged: `crop` must be a number from {_SMALLEST_CROP} to 1.")


def _is_number(value):
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max
