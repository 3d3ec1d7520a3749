"""What a student costs at inference in every form and format, as JSON lines.

    python benchmarks/inference.py --models resnet20,snv1
    python benchmarks/inference.py --run runs/digits --templates 256

Networks of the zoo get fresh weights and KD layers of the paper's size: sizes and latencies are
what they will be once trained, accuracies mean nothing and are left out. A recipe's run folder has
a trained student, and accuracies on its test images; its plain form is the student that the run
trained without KD layers, where it has one, or `--plain FILE`.

Each line has `model`, `form` (plain, trained, folded, reduced-N), `format`, `params`, `macs`,
`bytes`, `latency_ms_1` and `latency_ms_2` (one image, one and two threads), `latency_ms_batch32`
and `top1` (percent). A latency is the shortest of the repeats.
"""

import argparse
import json
import sys
from pathlib import Path

import keras
import numpy as np

from letkd_keras import KDLayer, insert_kd_layers, models
from letkd_keras.export import reduce_templates
from letkd_keras.export.cost_report import as_json, forms_of, measure, plot, table
from letkd_keras.export.evaluation_images import EvaluationImages, load_evaluation_images
from letkd_keras.export.loading import load_student

_FORMATS = "tflite,tflite-float16,tflite-dynamic,tflite-int8,onnx"


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="resnet20", help="networks of the zoo")
    parser.add_argument("--run", type=Path, help="a recipe's run folder, in place of --models")
    parser.add_argument("--plain", type=Path, help="the student trained alone, for --run")
    parser.add_argument("--data", help="images for --run, if not its data set: an .npz file")
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets, for --run")
    parser.add_argument("--test-images", type=int, default=1000, help="for --run")
    parser.add_argument("--calibration-images", type=int, default=1000, help="for --run")
    parser.add_argument("--classes", type=int, default=100, help="for --models")
    parser.add_argument("--penultimate", type=int, default=4096, help="templates, for --models")
    parser.add_argument("--intermediate", type=int, default=800, help="templates, for --models")
    parser.add_argument("--templates", default="256", help="numbers to reduce to; empty for none")
    parser.add_argument("--formats", default=_FORMATS, help="of the folded and reduced forms")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="folder for inference.md and inference.png, too")
    return parser.parse_args(arguments)


def zoo_student(name, options):
    """A student of the zoo with fresh weights, and noise in place of images."""
    keras.utils.set_random_seed(0)
    student = insert_kd_layers(
        models.build(name, num_classes=options.classes),
        KDLayer(options.penultimate, name="kd_penultimate"),
        KDLayer(options.intermediate, name="kd_intermediate"),
    )
    noise = np.random.default_rng(0).standard_normal((64, *student.input_shape[1:]))
    noise = noise.astype("float32")
    return student, None, EvaluationImages("noise", noise, calibration=noise)


def trained_student(options):
    """The student of a run, if there is one the student trained plainly, and test images."""
    config = json.loads((options.run / "config.json").read_text())
    data = load_evaluation_images(
        options.data or config["data"],
        options.data_dir,
        options.test_images,
        options.calibration_images,
    )
    file = options.plain or options.run / "student" / f"seed{config['seed']}" / "student.keras"
    plain = load_student(file) if options.plain or file.is_file() else None
    return load_student(options.run), plain, data


def forms(student, plain, data, options):
    """The forms one after the other: name, model, labels and formats."""
    wanted = options.formats.split(",")
    for form, (model, labels) in forms_of(student, data.images, data.labels, plain).items():
        yield form, model, labels, wanted[:1] if form == "trained" else wanted
    for count in filter(None, options.templates.split(",")):
        reduced = reduce_templates(student, data.calibration, int(count)).model
        yield f"reduced-{count}", reduced, data.labels, wanted


def main(arguments=None):
    options = parse(arguments)
    if options.run is not None:
        students = [trained_student(options)]
    else:
        students = (zoo_student(name, options) for name in options.models.split(","))
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
                print(json.dumps(as_json(row)), flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "inference.md").write_text(table(rows))
        known = [row for row in rows if row.top1 is not None]
        if known:
            plot(known, options.out / "inference.png")
    return rows


if __name__ == "__main__":
    sys.exit(main() == [])
