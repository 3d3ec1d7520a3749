"""The model card of an export: what was exported and how it was checked."""

import logging
from dataclasses import asdict
from datetime import date
from pathlib import Path

from letkd_keras.export.batch_norm_folding import untrained_batch_norms
from letkd_keras.export.card_file import LABELS, options_of, read_card, write_labels
from letkd_keras.export.card_markdown import describe_input, markdown
from letkd_keras.files import checksum, write_json, write_text
from letkd_keras.functional.cost import known_cost_of
from letkd_keras.functional.fingerprint import architecture_fingerprint, fingerprint
from letkd_keras.functional.graph import maker, nodes
from letkd_keras.layers import KDLayer
from letkd_keras.versions import versions

log = logging.getLogger(__name__)

# What a row of the table needs. A card of another version may lack it.
_OF_AN_ARTIFACT = {
    *("file", "bytes", "sha256", "input_dtype", "output_dtype", "layout"),
    *("parameters", "multiply_adds", "images", "data"),
    *("max_difference", "agreement", "accuracy_of_student", "accuracy"),
}


def write_card(path, job, results, *, data_name=None, assumed_normalization=False, training=None):
    """Write `card.json`, `card.md` and, with class names, `labels.txt` into an export's folder.

    Without class names, a `labels.txt` that belongs to an earlier card is removed. An earlier card
    that cannot be read is replaced, with a warning.

    Args:
        path: Folder of the artifacts.
        job: `ExportJob`.
        results: `Exported` by format. Artifacts of the same student in an earlier card stay in the
            card if they are unchanged, with what they were checked on.
        data_name: Name of the images.
        assumed_normalization: Whether mean and standard deviation are assumed, not known.
        training: JSON-like dictionary of the training, or `None`.

    Returns:
        The card as a dictionary.
    """
    path, options = Path(path), job.options
    earlier, data = _earlier_card(path), data_name or ("images" if job.real else "noise")
    if earlier is None and (path / "card.json").exists():
        log.warning(
            "%s is damaged, or of an earlier version: the new card describes only the files of "
            "this export",
            path / "card.json",
        )
    card = {
        "name": job.student.name,
        "student": fingerprint(job.student),
        "architecture": architecture_fingerprint(job.student),
        "date": date.today().isoformat(),
        "inputs": {
            "kind": options.input,
            "shape": list(job.student.input_shape[1:]),
            "checked_size": list(job.images.shape[1:-1]),
            "dtype": "float32",
            "crop": options.crop,
            "mean": _list(options.mean),
            "std": _list(options.std),
            "assumed_normalization": assumed_normalization,
        },
        "outputs": {"kind": options.output, "classes": job.student.output_shape[-1]},
        "class_names": _list(options.class_names),
        "kd_layers": describe_kd_layers(job.student),
        "parameters": job.student.count_params(),
        "multiply_adds": known_cost_of(job.student, job.images.shape[1:]).multiply_adds,
        "training": training,
        "untrained_batch_normalizations": untrained_batch_norms(job.student),
        "artifacts": {
            **_unchanged_artifacts(path, earlier, job),
            **{name: _artifact(result, job, data) for name, result in results.items()},
        },
        "versions": versions(("keras", "tensorflow", "numpy")),
    }
    card["inputs"]["description"] = describe_input(card["inputs"])
    write_labels(path, options.class_names)
    if options.class_names is None and earlier and earlier.get("class_names"):
        (path / LABELS).unlink(missing_ok=True)
    write_json(path / "card.json", card)
    write_text(path / "card.md", markdown(card))
    return card


def listed_files(path):
    """Names of the files and folders that the card in a folder lists; none without a card."""
    card = _earlier_card(Path(path))
    return set() if card is None else {entry["file"] for entry in card["artifacts"].values()}


def describe_kd_layers(student):
    """Describe the KD layers of a student.

    Returns:
        A list of dictionaries: `name`, `after` (the layer that it follows), `templates`, `alpha`.
    """
    return [
        {
            "name": node.operation.name,
            "after": maker(node.input_tensors[0]).name,
            "templates": node.operation.templates,
            "alpha": node.operation.alpha,
        }
        for node in nodes(student)
        if isinstance(node.operation, KDLayer)
    ]


def _artifact(result, job, data):
    options, noise = job.options, result.layer_noise
    is_integer = result.format == "tflite-int8" and options.integer_io
    is_nchw = result.format == "onnx" and options.channels_first
    has_precisions = result.format == "tflite-int4" and bool(options.precision)
    integer_input = "uint8" if options.input == "pixels" else "int8"
    return {
        "file": result.path.name,
        "bytes": result.bytes,
        "sha256": checksum(result.path),
        "input_dtype": integer_input if is_integer else "float32",
        "output_dtype": "int8" if is_integer else "float32",
        "layout": "NCHW" if is_nchw else "NHWC",
        "parameters": result.parameters,
        "multiply_adds": known_cost_of(job.written, job.images.shape[1:]).multiply_adds,
        "images": result.num_images,
        "data": data,
        "max_difference": result.max_difference,
        "agreement": result.agreement,
        "accuracy_of_student": result.accuracy_before,
        "accuracy": result.accuracy,
        "tolerance": result.tolerance,
        "min_agreement": result.min_agreement,
        "min_accuracy": result.min_accuracy,
        **({"precision": options.precision} if has_precisions else {}),
        **({} if noise is None else {"layer_snr_db": [asdict(layer) for layer in noise]}),
    }


def _earlier_card(path):
    """The card that the folder has, or `None` if it has none that can be read."""
    try:
        return read_card(path)
    except (FileNotFoundError, ValueError):
        return None


def _unchanged_artifacts(path, card, job):
    """Artifacts of the same student, inputs and outputs that an earlier card lists, unchanged.

    An artifact for images of any size must have been checked on the same size.
    """
    if card is None or card["student"] != fingerprint(job.student):
        return {}
    # Layers without weights may differ.
    architecture = architecture_fingerprint(job.student)
    if architecture is None or card.get("architecture") != architecture:
        return {}
    if card["inputs"]["checked_size"] != list(job.images.shape[1:-1]):
        return {}
    earlier, options = options_of(card), job.options
    keys = ("input", "output", "mean", "std")
    if any(_list(getattr(earlier, key)) != _list(getattr(options, key)) for key in keys):
        return {}
    # A SavedModel has the names of its classes inside.
    is_renamed = options.knows_pixels and card.get("class_names") != _list(options.class_names)
    return {
        name: artifact
        for name, artifact in card["artifacts"].items()
        if set(artifact) >= _OF_AN_ARTIFACT
        and not (is_renamed and name == "savedmodel")
        and (path / artifact["file"]).exists()
        and checksum(path / artifact["file"]) == artifact["sha256"]
    }


def _list(values):
    return None if values is None else list(values)
