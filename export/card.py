"""The model card: what was exported, from what, and how it was checked (`card.json`, `card.md`)."""

import hashlib
import json
from datetime import date
from importlib import metadata
from pathlib import Path

from letkd_keras.export.batch_norm_folding import untrained_batch_norms
from letkd_keras.export.loading import find_student
from letkd_keras.files import open_atomic
from letkd_keras.functional.cost import cost_of


def write_card(path, job, results, *, data_name=None, training=None):
    """Write `card.json` and `card.md` of what a folder holds.

    Args:
        path: Folder of the artifacts.
        job: The `ExportJob`.
        results: `Exported` by format. Artifacts that an earlier card lists and that are still as
            it says stay listed.
        data_name: What the images are.
        training: JSON-like dictionary of the training, or `None`.

    Returns:
        The card as a dictionary.
    """
    path, options = Path(path), job.options
    artifacts = {**_still_there(path, job), **{name: _artifact(r) for name, r in results.items()}}
    accuracy = next((r.accuracy_before for r in results.values()), None)
    card = {
        "name": job.student.name,
        "student": fingerprint(job.student),
        "date": date.today().isoformat(),
        "inputs": {
            "shape": list(job.student.input_shape[1:]),
            "dtype": "float32",
            "layout": "NCHW in ONNX" if options.channels_first else "NHWC",
            "pixels": "normalised: (pixel / 255 - mean) / std per channel",
            "mean": _list(options.mean),
            "std": _list(options.std),
        },
        "outputs": {"logits": job.student.output_shape[-1]},
        "class_names": _list(options.class_names),
        "parameters": {
            "student": job.student.count_params(),
            "written": job.written.count_params(),
        },
        "multiply_adds": {"student": _macs(job.student), "written": _macs(job.written)},
        "training": training,
        "untrained_batch_normalisations": untrained_batch_norms(job.student),
        "verification": {
            "images": len(job.images),
            "data": data_name or ("given images" if job.real else "noise"),
            "accuracy_of_student": accuracy,
        },
        "artifacts": artifacts,
        "versions": {name: metadata.version(name) for name in ("keras", "tensorflow", "numpy")},
    }
    _write(path / "card.json", json.dumps(card, indent=2) + "\n")
    _write(path / "card.md", _markdown(card))
    return card


def read_card(path):
    """The card of a folder.

    Raises:
        FileNotFoundError: If it has none.
    """
    file = Path(path) / "card.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"`path` must be a folder with a card.json, as the export writes it. "
            f"Received: {str(path)!r}"
        )
    return json.loads(file.read_text())


def checksum(path):
    """SHA-256 of a file, or of the names and checksums of all files of a folder."""
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_file():
        digest.update(path.read_bytes())
    else:
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()} {checksum(file)}\n".encode())
    return digest.hexdigest()


def fingerprint(model):
    """SHA-256 of a model's weights and their shapes, in order."""
    digest = hashlib.sha256()
    for value in model.get_weights():
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def provenance_of(model):
    """How the student of a run's or a sweep's folder came to be; `None` for other models."""
    if not isinstance(model, str | Path) or not Path(model).is_dir():
        return None
    folder, file = Path(model), find_student(model)
    if (folder / "sweep.json").is_file():
        sweep = json.loads((folder / "sweep.json").read_text())
        top1 = {row["form"]: row["top1"] for row in sweep["rows"]}
        reduced = {"form": sweep["chosen"], "top1": top1[sweep["chosen"]], "whole": top1["folded"]}
        return {**(sweep["training"] or {}), "reduced": reduced}
    place = file.parent
    found = {"run": folder.resolve().name, "student": file.relative_to(folder).as_posix()}
    for name, file in (("config", folder / "config.json"), ("result", place / "result.json")):
        if file.is_file():
            found[name] = json.loads(file.read_text())
    return found


def _artifact(result):
    return {
        "file": result.path.name,
        "bytes": result.bytes,
        "sha256": checksum(result.path),
        "max_difference": result.max_difference,
        "agreement": result.agreement,
        "images": result.images,
        "accuracy": result.accuracy,
        "tolerance": result.tolerance,
        "min_agreement": result.min_agreement,
    }


def _still_there(path, job):
    """What an earlier card of the same student lists and is unchanged."""
    try:
        card = read_card(path)
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    if card.get("student") != fingerprint(job.student):
        return {}
    return {
        name: artifact
        for name, artifact in card["artifacts"].items()
        if (path / artifact["file"]).exists()
        and checksum(path / artifact["file"]) == artifact["sha256"]
    }


def _macs(model):
    try:
        return cost_of(model, pooled=True).multiply_adds
    except ValueError:  # a size that is open, or a layer that is not known there
        return None


def _list(values):
    return None if values is None else list(values)


def _markdown(card):
    inputs, verification = card["inputs"], card["verification"]
    shape = " x ".join("any" if size is None else str(size) for size in inputs["shape"])
    lines = [
        f"# {card['name']}",
        "",
        f"Image classifier with {card['outputs']['logits']} classes; exported {card['date']}.",
        "",
        f"- Input `image`: {inputs['dtype']} [batch, {shape}], {inputs['layout']}",
    ]
    if inputs["mean"] is not None:
        mean, std = (
            ", ".join(f"{value:.4f}" for value in inputs[name]) for name in ("mean", "std")
        )
        lines += [f"- Normalisation: (pixel / 255 - mean) / std, mean {mean}, std {std}"]
    lines += [f"- Output `logits`: [batch, {card['outputs']['logits']}]"]
    if card["class_names"]:
        lines += [f"- Classes: {', '.join(card['class_names'])}"]
    counts = card["parameters"]
    lines += [f"- Parameters: {counts['student']:,} as trained, {counts['written']:,} as written"]
    macs = card["multiply_adds"]
    if macs["written"] is not None:
        lines += [
            f"- Multiply-adds: {macs['student']:,} as trained, {macs['written']:,} as written"
        ]
    if card["training"]:
        config, result = (card["training"].get(name, {}) for name in ("config", "result"))
        told = {
            key: config[key]
            for key in ("pair", "data", "split", "export_method", "seed", "templates")
            if key in config
        }
        if told:
            lines += [f"- Training: {', '.join(f'{key} {value}' for key, value in told.items())}"]
        if "accuracy_last" in result:
            lines += [
                f"- Test accuracy in training: {result['accuracy_last']:.2f}% after "
                f"{result['epochs']} epochs"
            ]
        if reduced := card["training"].get("reduced"):
            lines += [
                f"- Templates: {reduced['form']}, top-1 {reduced['top1']:.2f}% where all of them "
                f"give {reduced['whole']:.2f}%"
            ]
    if card["untrained_batch_normalisations"]:
        lines += [
            "- Warning: batch normalisations that have seen no data: "
            + ", ".join(card["untrained_batch_normalisations"])
        ]
    lines += [
        "",
        f"Each artifact was loaded in a fresh process and compared with the student in Keras on "
        f"{verification['images']} images ({verification['data']}).",
        "",
        "| format | file | bytes | max difference | top-1 agreement | accuracy | SHA-256 |",
        "|---|---|---|---|---|---|---|",
    ]
    if verification["accuracy_of_student"] is not None:
        lines += [
            f"| student in Keras | | | | | {100 * verification['accuracy_of_student']:.2f}% | |"
        ]
    lines += [_row(name, artifact) for name, artifact in card["artifacts"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    return "\n".join([*lines, "", f"Made with {versions}.", ""])


def _row(name, artifact):
    accuracy = artifact["accuracy"]
    return (
        f"| {name} | `{artifact['file']}` | {artifact['bytes']:,} "
        f"| {artifact['max_difference']:.1e} | {100 * artifact['agreement']:.2f}% "
        f"| {'-' if accuracy is None else f'{100 * accuracy:.2f}%'} "
        f"| `{artifact['sha256'][:12]}` |"
    )


def _write(file, text):
    with open_atomic(file) as aside:
        aside.write(text.encode())
