"""What a student costs at inference in every form and format, as JSON lines.

    python benchmarks/inference.py --models resnet20,snv1
    python benchmarks/inference.py --run runs/digits --templates 256

Networks of the zoo get fresh weights and KD layers of the paper's size: sizes and latencies are
what they will be once trained, accuracies mean nothing and are left out. A recipe's run folder has
a trained student, and accuracies on its test images; its plain form is the student that the run
trained without KD layers, where it has one.

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
from letkd_keras.export import fold, reduce_templates
from letkd_keras.export.cost_report import as_json, measure, plot, table, without_kd_layers
from letkd_keras.export.evaluation_images import load_evaluation_images
from letkd_keras.export.loading import load_student

_FORMATS = "tflite,tflite-float16,tflite-dynamic,tflite-int8,onnx"


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="resnet20", help="networks of the zoo")
    parser.add_argument("--run", type=Path, help="a recipe's run folder, in place of --models")
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets, for --run")
    parser.add_argument("--test-images", type=int, default=1000, help="for --run")
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
    plain = models.build(name, num_classes=options.classes)
    student = insert_kd_layers(
        plain,
        KDLayer(options.penultimate, name="kd_penultimate"),
        KDLayer(options.intermediate, name="kd_intermediate"),
    )
    noise = np.random.default_rng(0).standard_normal((64, *plain.input_shape[1:]))
    images = {"images": noise.astype("float32"), "calibration": noise.astype("float32")}
    return student, plain, images, {"labels": None}


def trained_student(options):
    """The student of a run, its test images and, if there is one, the student trained plainly."""
    config = json.loads((options.run / "config.json").read_text())
    data = load_evaluation_images(config["data"], options.data_dir, options.test_images)
    student = load_student(options.run)
    file = options.run / "student" / f"seed{config['seed']}" / "student.keras"
    labels = {"labels": data.labels}
    if file.is_file():
        plain, plain_labels = load_student(file), labels
    else:
        # Without the layers that it was trained with, its accuracy would not be the plain one's.
        plain, plain_labels = without_kd_layers(student), {"labels": None}
    images = {"images": data.images, "calibration": data.calibration}
    return student, plain, {**images, **labels}, plain_labels


def forms(student, plain, given, plain_labels, options):
    """The forms: name, model, formats and what is different in measuring it."""
    wanted = options.formats.split(",")
    first = wanted[:1]
    yield "plain", fold(plain, images=given["images"][:8]), wanted, plain_labels
    yield "trained", student, first, {}
    yield "folded", fold(student, images=given["images"][:8]), wanted, {}
    for count in filter(None, options.templates.split(",")):
        reduced = reduce_templates(student, given["calibration"], int(count)).model
        yield f"reduced-{count}", reduced, wanted, {}


def main(arguments=None):
    options = parse(arguments)
    if options.run is not None:
        students = [trained_student(options)]
    else:
        students = (zoo_student(name, options) for name in options.models.split(","))
    rows = []
    for student, plain, given, plain_labels in students:
        given = {"labels": None, **given, "repeats": options.repeats, "name": student.name}
        for form, model, wanted, changes in forms(student, plain, given, plain_labels, options):
            for format in wanted:
                rows.append(measure(model, form, format, **{**given, **changes}))
                print(json.dumps(as_json(rows[-1])), flush=True)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "inference.md").write_text(table(rows))
        plot([row for row in rows if row.top1 is not None], options.out / "inference.png")
    return rows


if __name__ == "__main__":
    sys.exit(main() == [])
