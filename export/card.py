"""The model card of an export: what was exported and how it was checked."""

import json
import re
from dataclasses import asdict
from datetime import date
from pathlib import Path

from letkd_keras.commands.markdown_table import markdown_table
from letkd_keras.export.batch_norm_folding import untrained_batch_norms
from letkd_keras.export.card_file import LABELS, options_of, read_card, write_labels
from letkd_keras.export.card_snippets import has_snippets, kotlin_snippet, python_snippet
from letkd_keras.files import checksum, write_json, write_text
from letkd_keras.functional.cost import known_cost_of
from letkd_keras.functional.fingerprint import architecture_fingerprint, fingerprint
from letkd_keras.functional.graph import maker, nodes
from letkd_keras.layers import KDLayer
from letkd_keras.versions import versions

# What a row of the table needs. A card of another version may lack it.
_OF_AN_ARTIFACT = {
    *("file", "bytes", "sha256", "input_dtype", "output_dtype", "layout"),
    *("parameters", "multiply_adds", "images", "data"),
    *("max_difference", "agreement", "accuracy_of_student", "accuracy"),
}
# Columns of the table of artifacts.
_HEADS = (
    *("format", "file", "bytes", "parameters", "multiply-adds", "images", "max difference"),
    *("top-1 agreement", "accuracy in Keras", "accuracy", "SHA-256"),
)
# Folder of a run in which its teacher lies.
_TEACHER = "teacher"


def write_card(path, job, results, *, data_name=None, assumed_normalization=False, training=None):
    """Write `card.json`, `card.md` and, with class names, `labels.txt` into an export's folder.

    Without class names, a `labels.txt` that belongs to an earlier card is removed.

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
    card = {
        "name": job.student.name,
        "student": fingerprint(job.student),
        "architecture": architecture_fingerprint(job.student),
        "date": date.today().isoformat(),
        "inputs": {
            "kind": options.input,
            "shape": list(job.student.input_shape[1:]),
            "dtype": "float32",
            "crop": options.crop,
            "mean": _list(options.mean),
            "std": _list(options.std),
            "assumed_normalization": assumed_normalization,
        },
        "outputs": {"kind": options.output, "classes": job.student.output_shape[-1]},
        "class_names": _list(options.class_names),
        "kd_layers": kd_layers(job.student),
        "parameters": job.student.count_params(),
        "multiply_adds": known_cost_of(job.student).multiply_adds,
        "training": training,
        "untrained_batch_normalizations": untrained_batch_norms(job.student),
        "artifacts": {
            **_unchanged_artifacts(path, earlier, job),
            **{name: _artifact(result, job, data) for name, result in results.items()},
        },
        "versions": versions(("keras", "tensorflow", "numpy")),
    }
    card["inputs"]["description"] = _describe_input(card["inputs"])
    write_labels(path, options.class_names)
    if options.class_names is None and earlier and earlier.get("class_names"):
        (path / LABELS).unlink(missing_ok=True)
    write_json(path / "card.json", card)
    write_text(path / "card.md", _markdown(card))
    return card


def listed_files(path):
    """Names of the files and folders that the card in a folder lists; none without a card."""
    card = _earlier_card(Path(path))
    return set() if card is None else {entry["file"] for entry in card["artifacts"].values()}


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
        "multiply_adds": known_cost_of(job.written).multiply_adds,
        "images": result.num_images,
        "data": data,
        "max_difference": result.max_difference,
        "agreement": result.agreement,
        "accuracy_of_student": result.accuracy_before,
        "accuracy": result.accuracy,
        "tolerance": result.tolerance,
        "min_agreement": result.min_agreement,
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
    """Artifacts of the same student, inputs and outputs that an earlier card lists, unchanged."""
    if card is None or card["student"] != fingerprint(job.student):
        return {}
    # Layers without weights may differ.
    architecture = architecture_fingerprint(job.student)
    if architecture is None or card.get("architecture") != architecture:
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


# === Markdown ===


def _markdown(card):
    """The card as a model card of Hugging Face, whose metadata stand between lines of dashes."""
    classes, kind = card["outputs"]["classes"], card["outputs"]["kind"]
    meaning = {
        "logits": "These are logits; their softmax gives probabilities.",
        "probabilities": "These are probabilities.",
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in _metadata(card).items()),
        "---",
        "",
        f"# {card['name']}",
        "",
        f"Image classifier with {classes} classes. Exported {card['date']}.",
        "",
        f"- Input `image`: {card['inputs']['description']}",
        *_tensor_lines(card),
        f"- Output `{kind}`: [batch, {classes}]. {meaning[kind]}",
    ]
    lines += [
        f"- `{artifact['file']}`: input {artifact['input_dtype']}, output "
        f"{artifact['output_dtype']}, with scale and zero point in the file"
        for artifact in card["artifacts"].values()
        if artifact["input_dtype"] != "float32"
    ]
    lines += [
        f"- `{artifact['file']}`: int4 weights, except "
        + ", ".join(f"{value} of `{layer}`" for layer, value in artifact["precision"].items())
        for artifact in card["artifacts"].values()
        if artifact.get("precision")
    ]
    if "savedmodel" in card["artifacts"] and options_of(card).knows_pixels:
        lines += ["- SavedModel, endpoint `classify`: uint8 images to `probabilities`"]
    if card["class_names"]:
        lines += [f"- Classes, in the order of `{LABELS}`: {', '.join(card['class_names'])}"]
    lines += [
        f"- KD layer `{layer['name']}` after `{layer['after']}`: {layer['templates']} templates, "
        f"alpha {layer['alpha']:g}"
        for layer in card["kd_layers"]
    ]
    form = _form(card["training"] or {})
    lines += [f"- Parameters: {card['parameters']:,} {form}"]
    if card["multiply_adds"] is not None:
        lines += [f"- Multiply-adds: {card['multiply_adds']:,} {form}"]
    lines += _training_lines(card["training"] or {}, card["kd_layers"])
    if card["untrained_batch_normalizations"]:
        lines += [
            "- Warning: the statistics of these batch normalizations were never updated: "
            + ", ".join(card["untrained_batch_normalizations"])
        ]
    lines += [
        "",
        "Each artifact was loaded in a new process and compared with the student in Keras on the "
        "images of its row.",
        "",
        *markdown_table(_HEADS, [_row(*entry) for entry in card["artifacts"].items()]),
    ]
    packages = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    lines += ["", f"Written with {packages}.", *_noise_lines(card["artifacts"])]
    runnable = [name for name in card["artifacts"] if has_snippets(card, name)]
    for language, snippet in (("Python", python_snippet), ("Kotlin", kotlin_snippet)):
        if runnable:
            lines += ["", f"{language}:", "", f"```{language.lower()}"]
            lines += [*snippet(card, runnable[0]), "```"]
    return "\n".join([*lines, ""])


def _tensor_lines(card):
    """Type, shape and order of the axes of the input, a line for each that artifacts have."""
    inputs, files = card["inputs"], {}
    *sides, channels = inputs["shape"]
    for artifact in card["artifacts"].values():
        is_nchw = artifact["layout"] == "NCHW"
        shape = _shape({"shape": [channels, *sides]} if is_nchw else inputs, ", ")
        tensor = f"{artifact['input_dtype']} [batch, {shape}], {artifact['layout']}"
        files.setdefault(tensor, []).append(f"`{artifact['file']}`")
    if len(files) == 1:
        return [f"- Tensor: {tensor}" for tensor in files]
    return [f"- Tensor of {', '.join(names)}: {tensor}" for tensor, names in files.items()]


def _noise_lines(artifacts):
    """A table of the signal-to-noise ratios of each format that has them."""
    lines = []
    for name, artifact in artifacts.items():
        if artifact.get("layer_snr_db"):
            lines += ["", f"Signal-to-noise ratio of each layer of `{artifact['file']}` ({name}):"]
            rows = [
                [
                    f"`{row['layer']}`",
                    row["operation"],
                    "-" if row["snr_db"] is None else f"{row['snr_db']:.1f}",
                ]
                for row in artifact["layer_snr_db"]
            ]
            lines += ["", *markdown_table(["layer", "operation", "dB"], rows)]
    return lines


def _metadata(card):
    """Metadata of a model card of Hugging Face, whose values are JSON (and so YAML)."""
    kinds = {"savedmodel": "tf-saved-model", "onnx": "onnx"}
    runtimes = dict.fromkeys(kinds.get(name, "tflite") for name in card["artifacts"])
    libraries = {"tflite": "litert", "onnx": "onnx"}
    values = {
        "library_name": next((libraries[name] for name in runtimes if name in libraries), "keras"),
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "knowledge-distillation", "letkd", *runtimes],
        "metrics": ["accuracy"],
    }
    metrics = {}  # by data set
    for name, artifact in card["artifacts"].items():
        if artifact["accuracy"] is not None:
            value = round(artifact["accuracy"], 4)
            metric = {"type": "accuracy", "name": f"accuracy of {name}", "value": value}
            metrics.setdefault(artifact["data"], []).append(metric)
    if metrics:
        results = [
            {
                "task": {"type": "image-classification"},
                "dataset": {"type": "image-folder", "name": data},
                "metrics": of_data,
            }
            for data, of_data in metrics.items()
        ]
        values["model-index"] = [{"name": card["name"], "results": results}]
    return values


def _describe_input(inputs):
    """The input in one line: "RGB, 0 to 255, 224 x 224, bilinear resize"."""
    *sides, channels = inputs["shape"]
    size = _shape({"shape": sides})
    parts = [{1: "grayscale", 3: "RGB"}.get(channels, f"{channels} channels")]
    parts += ["0 to 255", size] if inputs["kind"] == "pixels" else [size]
    if inputs["crop"] == 1 or None in sides:
        parts += ["bilinear resize of the shorter side, center crop"]
    else:
        shorter = round(min(sides) / inputs["crop"])
        parts += [f"bilinear resize of the shorter side to {shorter}, center crop"]
    if inputs["kind"] == "normalized" and inputs["mean"] is None:
        parts += ["normalized as in training"]
    elif inputs["kind"] == "normalized":
        parts += ["normalized: (pixel / 255 - mean) / std for each channel"]
        for name in ("mean", "std"):
            parts += [f"{name} {', '.join(f'{value:.4f}' for value in inputs[name])}"]
    if inputs["assumed_normalization"]:
        parts += ["mean and standard deviation of the training assumed"]
    return ", ".join(parts)


def _shape(inputs, separator=" x "):
    return separator.join("any" if size is None else str(size) for size in inputs["shape"])


def _training_lines(training, kd_layers):
    """What a run's `config.json` and `result.json`, and a sweep, say about the training."""
    reduced = training.get("reduced")
    config, result = training.get("config") or {}, training.get("result") or {}
    method, seed = _method_and_seed(training)
    values = {**config, "run": training.get("run"), "method": method, "seed": seed}
    names = ["run", "pair", "method", "seed"]
    if kd_layers or reduced:  # a run has settings of all its methods
        names += ["templates", "subclasses"]
    settings = [f"{key} {values[key]}" for key in names if isinstance(values.get(key), str | int)]
    lines = [f"- Training: {', '.join(settings)}"] if settings else []
    data = config.get("data")
    if isinstance(data, dict):
        images = [str(data[key]) for key in ("name", "split") if data.get(key)]
        line = f"- Data: {', '.join(images or [str(data.get('source'))])}"
        few = config.get("student_examples")
        if few and method != _TEACHER:
            line += f"; the student was trained on {few} of the training images"
        lines += [line]
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
    if "accuracy_before_quantization" in result:
        lines += [
            "- Quantization-aware training: these epochs and this accuracy are under fake "
            "quantization. The student was trained in float before, to a test accuracy of "
            f"{result['accuracy_before_quantization']:.2f}%"
        ]
    if reduced:
        lines += [
            f"- Templates: {reduced['form']}, selected on {reduced['selected_on']}, with an "
            f"accuracy of {reduced['selection_top1']:.2f}% there against "
            f"{reduced['selection_top1_whole']:.2f}% with all templates"
        ]
        lines += [
            f"- KD layer `{layer['name']}` was after `{layer['after']}`, with "
            f"{layer['templates']} templates and alpha {layer['alpha']:g}"
            f"{_kept(reduced, layer)}"
            for layer in reduced["kd_layers"]
        ]
    return lines


def _form(training):
    """The form of the student that was exported: a sweep reduced it, or selected it folded."""
    reduced = training.get("reduced")
    return reduced["form"].partition("-")[0] if reduced else "as trained"


def _method_and_seed(training):
    """Those of the folder that the student lies in: a run has students of several."""
    file, config = training.get("student") or "", training.get("config") or {}
    if file.startswith(f"{_TEACHER}/"):
        return _TEACHER, config.get("seed")
    folders = re.match(r"([^/]+)/seed(\d+)/", file)
    return folders.groups() if folders else (None, None)


def _kept(reduced, layer):
    kept = (reduced.get("templates") or {}).get(layer["name"])
    return "" if kept is None else f"; {kept} of them were kept"


def _row(name, artifact):
    macs = artifact["multiply_adds"]
    accuracies = (artifact["accuracy_of_student"], artifact["accuracy"])
    return [
        *(name, f"`{artifact['file']}`", f"{artifact['bytes']:,}", f"{artifact['parameters']:,}"),
        "-" if macs is None else f"{macs:,}",
        f"{artifact['images']} ({artifact['data']})",
        *(f"{artifact['max_difference']:.1e}", f"{100 * artifact['agreement']:.2f}%"),
        *("-" if a is None else f"{100 * a:.2f}%" for a in accuracies),
        f"`{artifact['sha256'][:12]}`",
    ]
