"""What a student costs at inference in every form and format, as JSON lines.

    python benchmarks/inference.py --models resnet20 snv1
    python benchmarks/inference.py --run runs/digits --templates 256

Networks of the zoo get fresh weights and KD layers of the paper's size. Their sizes and latencies
are those of a trained network; their accuracies mean nothing and are left out. A recipe's run
folder has a trained student, and accuracies on its test images. Its plain form is the student that
the run trained without KD layers, if there is one, or `--plain FILE`.

Each line has `model`, `form` (plain, trained, folded, reduced-N), `format`, `params`, `macs`,
`bytes`, `latency_ms_1` and `latency_ms_2` (one image, one and two threads), `latency_ms_batch32`,
`top1` (percent) and `selection_top1` (always null here). A latency is that of the fastest run.
"""

import json
import sys
from dataclasses import asdict

from letkd_keras.commands.command_line import Parser
from letkd_keras.commands.common_options import add_data_options, add_seed_option
from letkd_keras.commands.option_types import list_item, path
from letkd_keras.export import formats as known_formats
from letkd_keras.export.data_of_student import open_data
from letkd_keras.export.evaluation_images import (
    EvaluationImages,
    add_image_options,
    evaluation_images,
)
from letkd_keras.files import write_text
from letkd_keras.ranges import class_count, positive_integer

_FORMATS = ("tflite", "tflite-float16", "tflite-dynamic", "tflite-int8", "onnx")


def parse(arguments=None):
    parser = Parser("", __doc__)
    parser.prog = "python benchmarks/inference.py"
    add = parser.add_argument
    counts = {"type": positive_integer, "metavar": "N"}
    add("--models", nargs="+", type=list_item, default=["resnet20"], help="networks of the zoo")
    add("--run", type=path, help="a recipe's run folder, instead of --models")
    add("--plain", type=path, help="the student trained alone, for --run")
    add("--model-classes", type=class_count, default=100, metavar="N", help="for --models")
    add("--penultimate", default=4096, help="templates, for --models", **counts)
    add("--intermediate", default=800, help="templates, for --models", **counts)
    add(
        "--templates",
        nargs="*",
        type=positive_integer,
        default=[256],
        metavar="N",
        help="numbers of templates to reduce to, if a KD layer has more; nothing for none",
    )
    add(
        "--formats",
        nargs="+",
        type=list_item,
        default=list(_FORMATS),
        help="formats of the folded and reduced forms",
    )
    add("--repeats", default=30, help="runs, of which the fastest counts", **counts)
    add("--out", type=path, help="folder for inference.md and inference.png")
    add_seed_option(parser)
    add_image_options(parser, calibration=1000)
    add_data_options(parser, default_text="the data set of --run")
    return parser.parse_args(arguments)


def zoo_student(name, options):
    """A student of the zoo with fresh weights, and noise instead of images."""
    import keras
    import numpy as np

    from letkd_keras import KDLayer, insert_kd_layers, models

    keras.utils.set_random_seed(0)
    student = insert_kd_layers(
        models.build(name, num_classes=options.model_classes),
        KDLayer(options.penultimate, name="kd_penultimate"),
        KDLayer(options.intermediate, name="kd_intermediate"),
    )
    noise = np.random.default_rng(0).standard_normal((64, *student.input_shape[1:]))
    noise = noise.astype("float32")
    return student, None, EvaluationImages("noise", noise, calibration=noise)


def trained_student(options):
    """The student of a run, the student trained without KD layers or `None`, and images."""
    from letkd_keras.commands.run_folder import read_config
    from letkd_keras.export.loading import load_student

    student, opened = load_student(options.run), open_data(options.run, options)
    if opened is None:
        raise ValueError("`run` must be a run folder, or `data` be given. Received: no data set")
    data = evaluation_images(
        opened.data, options.check_images, options.calibration_images, options.seed
    )
    seed = read_config(options.run, "run")["seed"]
    file = options.plain or options.run / "student" / f"seed{seed}" / "student.keras"
    plain = load_student(file) if options.plain or file.is_file() else None
    return student, plain, data


def forms(student, plain, data, options):
    """The forms one after the other: name, model, labels and formats."""
    from letkd_keras.export import reduce_templates
    from letkd_keras.export.cost_report import forms_of
    from letkd_keras.functional.insertion import kd_layers_of

    wanted = known_formats.expand(options.formats)
    for form, (model, labels) in forms_of(student, data.images, data.labels, plain).items():
        yield form, model, labels, wanted[:1] if form == "trained" else wanted
    # The templates of a KD layer with alpha 0 are not reduced.
    sizes = [layer.templates for layer in kd_layers_of(student).values() if layer.alpha > 0]
    for count in options.templates:
        if count < max(sizes, default=0):
            reduced = reduce_templates(student, data.calibration, count).model
            yield f"reduced-{count}", reduced, data.labels, wanted


def main(arguments=None):
    options = parse(arguments)
    # TensorFlow is imported only after the options are parsed.
    from letkd_keras.export.cost_report import measure, plot, table

    if options.run is not None:
        students = [trained_student(options)]
    else:
        students = (zoo_student(name, options) for name in options.models)
    rows = []
    for student, plain, data in students:
        for form, model, labels, wanted in forms(student, plain, data, options):
            for format in wanted:
                row = measure(
                    model,
                    form,
                    format,
                    images=data.images,
                    labels=labels,
                    calibration=data.calibration,
                    repeats=options.repeats,
                    name=student.name,
                )
                rows.append(row)
                print(json.dumps(asdict(row)), flush=True)
    if options.out is not None:
        write_text(options.out / "inference.md", table(rows))
        known = [row for row in rows if row.top1 is not None]
        if known:
            plot(known, options.out / "inference.png")
    return rows


if __name__ == "__main__":
    sys.exit(main() == [])
