"""The model card of an export as text, `card.md`, from the dictionary of `card.json`."""

import json
import re

from letkd_keras.commands.markdown import markdown_table
from letkd_keras.export.card_file import LABELS, options_of
from letkd_keras.export.card_snippets import snippets

# Columns of the table of artifacts.
_HEADS = (
    *("format", "file", "bytes", "parameters", "multiply-adds", "images", "max difference"),
    *("top-1 agreement", "accuracy in Keras", "accuracy", "SHA-256"),
)
# Folder of a run in which its teacher lies.
_TEACHER = "teacher"
_MEANINGS = {
    "logits": "These are logits; their softmax gives probabilities.",
    "probabilities": "These are probabilities.",
}


def markdown(card):
    """The card as a model card of Hugging Face, whose metadata stand between lines of dashes."""
    packages = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in _metadata(card).items()),
        "---",
        "",
        f"# {card['name']}",
        "",
        f"Image classifier with {card['outputs']['classes']} classes. Exported {card['date']}.",
        "",
        *_input_and_output_lines(card),
        *_network_lines(card),
        "",
        "Each artifact was loaded in a new process and compared with the student in Keras on the "
        "images of its row.",
        "",
        markdown_table(_HEADS, [_row(*entry) for entry in card["artifacts"].items()]),
        "",
        f"Written with {packages}.",
        *_noise_lines(card["artifacts"]),
        *_snippet_lines(card),
        "",
    ]
    return "\n".join(lines)


def describe_input(inputs):
    """The input in one line: "RGB, 0 to 255, 224 x 224, bilinear resize"."""
    *sides, channels = inputs["shape"]
    is_open = None in sides
    size = f"any size (checked on {_sizes(inputs['checked_size'])})" if is_open else _sizes(sides)
    parts = [{1: "grayscale", 3: "RGB"}.get(channels, f"{channels} channels")]
    parts += ["0 to 255", size] if inputs["kind"] == "pixels" else [size]
    if len(sides) == 2 and len(set(sides)) > 1 and not is_open:
        height, width = sides
        inner = "" if inputs["crop"] == 1 else f" (the inner {100 * inputs['crop']:g}%)"
        parts += [f"center crop to the sides {width}:{height}{inner}, bilinear resize"]
    elif inputs["crop"] == 1 or is_open:
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


def _sizes(shape, separator=" x "):
    return separator.join("any" if size is None else str(size) for size in shape)


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


def _input_and_output_lines(card):
    """What the artifacts take and return, and the types in them."""
    artifacts, outputs = card["artifacts"].values(), card["outputs"]
    lines = [
        f"- Input `image`: {card['inputs']['description']}",
        *_tensor_lines(card),
        f"- Output `{outputs['kind']}`: [batch, {outputs['classes']}]. "
        f"{_MEANINGS[outputs['kind']]}",
    ]
    lines += [
        f"- `{artifact['file']}`: input {artifact['input_dtype']}, output "
        f"{artifact['output_dtype']}, with scale and zero point in the file"
        for artifact in artifacts
        if artifact["input_dtype"] != "float32"
    ]
    lines += [
        f"- `{artifact['file']}`: int4 weights, except "
        + ", ".join(f"{value} of `{layer}`" for layer, value in artifact["precision"].items())
        for artifact in artifacts
        if artifact.get("precision")
    ]
    if any(name != "onnx" for name in card["artifacts"]):
        lines += ["- Signature of TFLite files and of the SavedModel: `serving_default`"]
    if "savedmodel" in card["artifacts"] and options_of(card).knows_pixels:
        name = " and `class_name`" if card["class_names"] else ""
        lines += [
            f"- Signature `classify` of the SavedModel: uint8 images to `probabilities`{name}"
        ]
    if card["class_names"]:
        lines += [f"- Classes, in the order of `{LABELS}`: {', '.join(card['class_names'])}"]
    return lines


def _tensor_lines(card):
    """Type, shape and order of the axes of the input, a line for each that artifacts have."""
    *sides, channels = card["inputs"]["shape"]
    files = {}
    for artifact in card["artifacts"].values():
        is_nchw = artifact["layout"] == "NCHW"
        shape = _sizes([channels, *sides] if is_nchw else [*sides, channels], ", ")
        tensor = f"{artifact['input_dtype']} [batch, {shape}], {artifact['layout']}"
        files.setdefault(tensor, []).append(f"`{artifact['file']}`")
    if len(files) == 1:
        return [f"- Tensor: {tensor}" for tensor in files]
    return [f"- Tensor of {', '.join(names)}: {tensor}" for tensor, names in files.items()]


def _network_lines(card):
    """KD layers and size of the student, and how it was trained."""
    training, layers = card["training"] or {}, card["kd_layers"]
    reduced = training.get("reduced")
    # A sweep reduced the student, or selected it folded.
    form = reduced["form"].partition("-")[0] if reduced else "as trained"
    lines = [
        f"- KD layer `{layer['name']}` after `{layer['after']}`: {layer['templates']} templates, "
        f"alpha {layer['alpha']:g}"
        for layer in layers
    ]
    lines += [f"- Parameters: {card['parameters']:,} {form}"]
    if card["multiply_adds"] is not None:
        inputs = card["inputs"]
        is_open = None in inputs["shape"]
        size = f", for {_sizes(inputs['checked_size'])}" if is_open else ""
        lines += [f"- Multiply-adds: {card['multiply_adds']:,} {form}{size}"]
    lines += _settings_lines(training, has_kd_layers=bool(layers or reduced))
    lines += _weights_lines(training.get("result") or {})
    if reduced:
        lines += _reduction_lines(reduced)
    if card["untrained_batch_normalizations"]:
        lines += [
            "- Warning: the statistics of these batch normalizations were never updated: "
            + ", ".join(card["untrained_batch_normalizations"])
        ]
    return lines


def _settings_lines(training, has_kd_layers):
    """What a run's `config.json` says about a student."""
    config = training.get("config") or {}
    method, seed = _method_and_seed(training)
    values = {**config, "run": training.get("run"), "method": method, "seed": seed}
    names = ["run", "pair", "method", "seed"]
    if has_kd_layers:  # a run has settings of all its methods
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
    return lines


def _method_and_seed(training):
    """Those of the folder that the student lies in: a run has students of several."""
    file, config = training.get("student") or "", training.get("config") or {}
    if file.startswith(f"{_TEACHER}/"):
        return _TEACHER, config.get("seed")
    folders = re.match(r"([^/]+)/seed(\d+)/", file)
    return folders.groups() if folders else (None, None)


def _weights_lines(result):
    """What a run's `result.json` says about the weights."""
    lines = []
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
    return lines


def _reduction_lines(reduced):
    """What a sweep says about the templates that it kept."""
    kept = reduced.get("templates") or {}
    return [
        f"- Templates: {reduced['form']}, selected on {reduced['selected_on']}, with an "
        f"accuracy of {reduced['selection_top1']:.2f}% there against "
        f"{reduced['selection_top1_whole']:.2f}% with all templates",
        *(
            f"- KD layer `{layer['name']}` was after `{layer['after']}`, with "
            f"{layer['templates']} templates and alpha {layer['alpha']:g}"
            + (f"; {kept[layer['name']]} of them were kept" if layer["name"] in kept else "")
            for layer in reduced["kd_layers"]
        ),
    ]


def _row(name, artifact):
    multiply_adds = artifact["multiply_adds"]
    accuracies = (artifact["accuracy_of_student"], artifact["accuracy"])
    return [
        *(name, f"`{artifact['file']}`", f"{artifact['bytes']:,}", f"{artifact['parameters']:,}"),
        "-" if multiply_adds is None else f"{multiply_adds:,}",
        f"{artifact['images']} ({artifact['data']})",
        *(f"{artifact['max_difference']:.1e}", f"{100 * artifact['agreement']:.2f}%"),
        *("-" if a is None else f"{100 * a:.2f}%" for a in accuracies),
        f"`{artifact['sha256'][:12]}`",
    ]


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
            lines += ["", markdown_table(["layer", "operation", "dB"], rows)]
    return lines


def _snippet_lines(card):
    """Programs for the first artifact that has them."""
    lines = []
    name = next((name for name in card["artifacts"] if snippets(card, name)), None)
    for language, snippet in snippets(card, name).items() if name else ():
        lines += ["", f"{language}:", "", f"```{language.lower()}", *snippet(card, name), "```"]
    return lines
