"""The model card of an export: what was exported and how it was checked."""

from datetime import date
from importlib import metadata
from pathlib import Path

from letkd_keras.export import formats
from letkd_keras.export.batch_norm_folding import untrained_batch_norms
from letkd_keras.files import checksum, read_json, write_json, write_text
from letkd_keras.functional.cost import cost_of
from letkd_keras.functional.fingerprint import fingerprint
from letkd_keras.functional.graph import maker, nodes
from letkd_keras.layers import KDLayer

_PIXELS = "normalized: (pixel / 255 - mean) / std for each channel"


def write_card(path, job, results, *, data_name=None, training=None):
    """Write `card.json` and `card.md` into the folder of an export.

    Args:
        path: Folder of the artifacts.
        job: `ExportJob`.
        results: `Exported` by format. Artifacts of the same student in an earlier card stay in the
            card if they are unchanged.
        data_name: Name of the images.
        training: JSON-like dictionary of the training, or `None`.

    Returns:
        The card as a dictionary.
    """
    path, options = Path(path), job.options
    accuracy = next((r.accuracy_before for r in results.values()), None)
    card = {
        "name": job.student.name,
        "student": fingerprint(job.student),
        "date": date.today().isoformat(),
        "inputs": {
            "shape": list(job.student.input_shape[1:]),
            "dtype": "float32",
            "layout": "NCHW in ONNX, NHWC elsewhere" if options.channels_first else "NHWC",
            "pixels": _PIXELS if options.mean is not None else "normalized as in training",
            "mean": _list(options.mean),
            "std": _list(options.std),
        },
        "outputs": {"kind": "logits", "classes": job.student.output_shape[-1]},
        "class_names": _list(options.class_names),
        "kd_layers": kd_layers(job.student),
        "parameters": {
            "student": job.student.count_params(),
            "written": job.written.count_params(),
        },
        "multiply_adds": {
            "student": _multiply_adds(job.student),
            "written": _multiply_adds(job.written),
        },
        "training": training,
        "untrained_batch_normalizations": untrained_batch_norms(job.student),
        "verification": {
            "images": len(job.images),
            "data": data_name or ("images without a name" if job.real else "noise"),
            "accuracy_of_student": accuracy,
        },
        "artifacts": {
            **_unchanged_artifacts(path, job),
            **{name: _artifact(result) for name, result in results.items()},
        },
        "versions": {name: metadata.version(name) for name in ("keras", "tensorflow", "numpy")},
    }
    write_json(path / "card.json", card)
    write_text(path / "card.md", _markdown(card))
    return card


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
    return card


def kd_layers(student):
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


def _check_artifact(card, name, artifact):
    file_name = formats.find(name, "artifacts").file_name
    keys = {"file", "sha256", "tolerance", "min_agreement"}
    if not isinstance(artifact, dict) or not keys <= set(artifact):
        raise ValueError(f"{card} is damaged: {name} must have {', '.join(sorted(keys))}.")
    for key in ("tolerance", "min_agreement"):
        limit = artifact[key]
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float)):
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


def _unchanged_artifacts(path, job):
    """Artifacts of the same student that an earlier card lists and that are unchanged."""
    try:
        card = read_card(path)
    except (FileNotFoundError, ValueError):
        return {}
    if card["student"] != fingerprint(job.student):
        return {}
    return {
        name: artifact
        for name, artifact in card["artifacts"].items()
        if (path / artifact["file"]).exists()
        and checksum(path / artifact["file"]) == artifact["sha256"]
    }


def _multiply_adds(model):
    try:
        return cost_of(model, pooled=True).multiply_adds
    except ValueError:  # an open image size, or a layer whose operations are not known
        return None


def _list(values):
    return None if values is None else list(values)


# === Markdown ===


def _markdown(card):
    classes = card["outputs"]["classes"]
    lines = [
        f"# {card['name']}",
        "",
        f"Image classifier with {classes} classes. Exported {card['date']}.",
        "",
        _input_line(card["inputs"]),
        f"- Output `logits`: [batch, {classes}]. These are logits; their softmax gives "
        "probabilities.",
    ]
    if "savedmodel" in card["artifacts"] and card["inputs"]["mean"] is not None:
        lines += ["- SavedModel, endpoint `classify`: uint8 images to `probabilities`"]
    if card["class_names"]:
        lines += [f"- Classes: {', '.join(card['class_names'])}"]
    lines += [
        f"- KD layer `{layer['name']}` after `{layer['after']}`: {layer['templates']} templates, "
        f"alpha {layer['alpha']:g}"
        for layer in card["kd_layers"]
    ]
    counts = card["parameters"]
    lines += [f"- Parameters: {counts['student']:,} as trained, {counts['written']:,} as written"]
    macs = card["multiply_adds"]
    if macs["written"] is not None:
        lines += [
            f"- Multiply-adds: {macs['student']:,} as trained, {macs['written']:,} as written"
        ]
    lines += _training_lines(card["training"] or {})
    if card["untrained_batch_normalizations"]:
        lines += [
            "- Warning: the statistics of these batch normalizations were never updated: "
            + ", ".join(card["untrained_batch_normalizations"])
        ]
    verification = card["verification"]
    lines += [
        "",
        f"Each artifact was loaded in a new process and compared with the student in Keras on "
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
    return "\n".join([*lines, "", f"Written with {versions}.", ""])


def _input_line(inputs):
    shape = " x ".join("any" if size is None else str(size) for size in inputs["shape"])
    line = (
        f"- Input `image`: {inputs['dtype']} [batch, {shape}], {inputs['layout']}, "
        f"{inputs['pixels']}"
    )
    if inputs["mean"] is not None:
        for name in ("mean", "std"):
            line += f", {name} {', '.join(f'{value:.4f}' for value in inputs[name])}"
    return line


def _training_lines(training):
    """What a run's `config.json` and `result.json`, and a sweep, say about the training."""
    config, result = training.get("config") or {}, training.get("result") or {}
    settings = [f"run {training['run']}"] if "run" in training else []
    settings += [
        f"{key.replace('_', ' ')} {config[key]}"
        for key in ("pair", "export_method", "seed", "templates", "subclasses")
        if isinstance(config.get(key), str | int)
    ]
    lines = [f"- Training: {', '.join(settings)}"] if settings else []
    data = config.get("data")
    if isinstance(data, dict):
        images = [str(data[key]) for key in ("name", "split") if data.get(key)]
        lines += [f"- Data: {', '.join(images or [str(data.get('source'))])}"]
    if "accuracy_selected" in result:
        lines += [
            f"- Weights: epoch {result['best_epoch']} of {result['epochs']}, selected on "
            f"validation images (accuracy {result['accuracy_validation']:.2f}%); test accuracy "
            f"{result['accuracy_selected']:.2f}%"
        ]
    elif "accuracy_last" in result:
        lines += [
            f"- Weights: the last of {result['epochs']} epochs, without any selection; test "
            f"accuracy {result['accuracy_last']:.2f}%"
        ]
    reduced = training.get("reduced")
    if reduced:
        lines += [
            f"- Templates: {reduced['form']}, selected on {reduced['selected_on']}, with an "
            f"accuracy of {reduced['selection_top1']:.2f}% there against "
            f"{reduced['selection_top1_whole']:.2f}% with all templates"
        ]
        lines += [
            f"- KD layer `{layer['name']}` was after `{layer['after']}`, with "
            f"{layer['templates']} templates and alpha {layer['alpha']:g}"
            for layer in reduced["kd_layers"]
        ]
    return lines


def _row(name, artifact):
    accuracy = artifact["accuracy"]
    return (
        f"| {name} | `{artifact['file']}` | {artifact['bytes']:,} "
        f"| {artifact['max_difference']:.1e} | {100 * artifact['agreement']:.2f}% "
        f"| {'-' if accuracy is None else f'{100 * accuracy:.2f}%'} "
        f"| `{artifact['sha256'][:12]}` |"
    )
