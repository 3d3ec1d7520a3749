"""Which architectures letKD works with: each one as teacher and as student.

    python benchmarks/architectures.py --rows runs/architectures.jsonl --out docs/architectures.md

Each architecture distils a copy of itself, so that one step shows it in both roles; transformers
are teachers only. For each one: the layers are suggested, prototypes are fitted on 40 images of
noise in 10 classes, one letKD step is trained, and the student is exported to TFLite (float32)
and compared with Keras in a fresh process. Weights are fresh ones. Rows that are in the file of
--rows or in the page of --out already are not repeated.

Architectures of keras-hub are built from arguments, in small versions, where keras-hub is
installed.
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CLASSES, SIZE, IMAGES, BATCH = 10, 64, 40, 4

# Transformers are teachers only: KD layers need feature maps. Their student is resnet8 of the zoo.
# Layers of MiT cannot be rebuilt from their configuration (keras-hub 0.32), so that a student of it
# cannot be copied.
TEACHERS_ONLY = ("ViT-small", "DeiT-small", "Swin-small", "DINOv2-small", "MiT-small")

ZOO = ("resnet20", "wrn16_2", "snv1", "snv2", "mnv2")

# Quick ones first.
APPLICATIONS = (
    *("MobileNet", "MobileNetV3Small", "MobileNetV2", "VGG16", "ResNet50", "ResNet50V2"),
    *("EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny", "DenseNet121", "MobileNetV3Large"),
    *("Xception", "VGG19", "InceptionV3", "EfficientNetV2B1", "EfficientNetB1", "NASNetMobile"),
    *("ResNet101", "EfficientNetB2", "EfficientNetV2B2", "ConvNeXtSmall", "DenseNet169"),
    *("ResNet101V2", "EfficientNetB3", "EfficientNetV2B3", "DenseNet201", "EfficientNetV2S"),
    *("InceptionResNetV2", "ResNet152V2", "ResNet152"),
)


def hub_backbones():
    """Builders of small backbones, by name; empty without keras-hub."""
    try:
        import keras_hub
    except ImportError:
        return {}
    models = keras_hub.models
    shape = (SIZE, SIZE, 3)
    resnet = {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": [2, 2, 2, 2],
        "stackwise_num_strides": [1, 2, 2, 2],
    }
    transformer = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    return {
        "ResNet18": lambda: models.ResNetBackbone(
            block_type="basic_block", image_shape=shape, **resnet
        ),
        "ResNet18-vd": lambda: models.ResNetBackbone(
            block_type="basic_block_vd",
            image_shape=shape,
            **{**resnet, "input_conv_filters": [32, 32, 64], "input_conv_kernel_sizes": [3, 3, 3]},
        ),
        "VGG11": lambda: models.VGGBackbone(
            stackwise_num_repeats=[1, 1, 2, 2, 2],
            stackwise_num_filters=[64, 128, 256, 512, 512],
            image_shape=shape,
        ),
        "DenseNet-small": lambda: models.DenseNetBackbone(
            stackwise_num_repeats=[2, 2, 2],
            compression_ratio=0.5,
            growth_rate=16,
            image_shape=shape,
        ),
        "Xception-small": lambda: models.XceptionBackbone(
            stackwise_conv_filters=[[16, 32], [32, 64], [64, 64]],
            stackwise_pooling=[True, True, False],
            image_shape=shape,
        ),
        "HGNetV2-small": lambda: models.HGNetV2Backbone(
            depths=[1, 1, 2],
            embedding_size=16,
            hidden_sizes=[32, 64, 128],
            stem_channels=[3, 8, 16],
            hidden_act="relu",
            use_learnable_affine_block=False,
            stackwise_stage_filters=[
                (16, 8, 32, 1, 1, 3),
                (32, 16, 64, 1, 1, 3),
                (64, 32, 128, 2, 1, 3),
            ],
            apply_downsample=[False, True, True],
            use_lightweight_conv_block=[False, False, False],
            image_shape=shape,
        ),
        "DINOv2-small": lambda: models.DINOV2Backbone(
            patch_size=16,
            num_layers=2,
            hidden_dim=32,
            num_heads=2,
            intermediate_dim=64,
            image_shape=shape,
            position_embedding_shape=shape,
        ),
        "MiT-small": lambda: models.MiTBackbone(
            layerwise_depths=[1, 1, 1, 1],
            num_layers=4,
            layerwise_num_heads=[1, 2, 2, 2],
            layerwise_sr_ratios=[8, 4, 2, 1],
            max_drop_path_rate=0.0,
            layerwise_patch_sizes=[7, 3, 3, 3],
            layerwise_strides=[4, 2, 2, 2],
            image_shape=shape,
            hidden_dims=[16, 32, 32, 64],
        ),
        "ViT-small": lambda: models.ViTBackbone(image_shape=shape, patch_size=16, **transformer),
        "DeiT-small": lambda: models.DeiTBackbone(
            image_shape=shape,
            patch_size=16,
            num_layers=2,
            num_heads=2,
            hidden_dim=32,
            intermediate_dim=64,
        ),
        "Swin-small": lambda: models.SwinTransformerBackbone(
            image_shape=shape,
            patch_size=4,
            embed_dim=16,
            depths=[1, 1],
            num_heads=[2, 2],
            window_size=4,
        ),
    }


def classifiers(hub):
    """`(library, name, build)` of all architectures."""
    from letkd_keras.models import add_head, open_network

    like_data = {"num_classes": CLASSES, "image_size": SIZE}

    def application(name):
        return lambda: open_network(f"keras.applications:{name}", **like_data).model

    first = [("keras.applications", name, application(name)) for name in APPLICATIONS]
    second = [
        ("keras-hub", name, lambda build=build: add_head(build(), CLASSES))
        for name, build in hub.items()
    ]
    third = [
        ("letkd_keras", name, lambda name=name: open_network(name, **like_data).model)
        for name in ZOO
    ]
    # Those of keras-hub and the zoo are small and quick.
    return [*first[:8], *second, *third, *first[8:]]


def small_student():
    from letkd_keras.models import open_network

    return open_network("resnet8", num_classes=CLASSES, image_size=SIZE).model


def measure(build, build_student):
    """A row without names: what worked, and the sentence of the error where something did not."""
    import keras
    import numpy as np

    from letkd_keras import LetKD, export_student, fit_prototypes, suggest_layers
    from letkd_keras.errors import error_reason

    start = time.process_time()
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    row, step = {}, "build"
    try:
        teacher, student = build(), build_student()
        row["parameters"] = teacher.count_params()
        step = "layers"
        layers = suggest_layers(teacher)
        row |= {level: name and f"{name}{_shape(teacher, name)}" for level, name in layers.items()}
        r = np.random.default_rng(0)
        shape = (IMAGES, *teacher.input_shape[1:])
        x, y = r.integers(0, 256, shape).astype("float32"), np.arange(IMAGES) % CLASSES
        step = "prototypes"
        prototypes = fit_prototypes(
            teacher, (x, y), templates=16, subclasses=2, iterations=2, batch_size=20, verbose=False
        )
        step = "training"
        model = LetKD(teacher, student, prototypes)
        row["levels"] = list(model.levels)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(1e-3), loss, run_eagerly=True)
        logs = model.train_on_batch(x[:BATCH], y[:BATCH], return_dict=True)
        row["loss"] = float(logs["loss"])
        if not np.isfinite(row["loss"]):
            raise FloatingPointError(f"The loss is {row['loss']}")
        step = "export"
        with tempfile.TemporaryDirectory() as folder:
            exported = export_student(model, folder, "tflite", images=x[:BATCH])
        row |= {"bytes": exported.bytes, "difference": exported.max_difference}
    except Exception as error:
        message = error_reason(error)
        row |= {"failed": step, "error": f"{type(error).__name__}: {message}"[:200]}
    return {**row, "cpu_s": round(time.process_time() - start, 1)}


def _shape(model, name):
    from letkd_keras.functional.graph import output_shape_of

    if "/" in name:  # a layer inside an encoder
        return ""
    return " " + "x".join(map(str, output_shape_of(model, name)[1:]))


def table(rows, command):
    """The page of docs/, Markdown."""
    passed = [row for row in rows if "error" not in row]
    lines = [
        "# Architectures",
        "",
        f"We tried {len(rows)} architectures, and {len(passed)} work. Each convolutional network "
        "was the teacher and, as a copy with KD layers, also",
        "the student. Each transformer was the teacher of a resnet8, because KD layers need "
        "feature maps. (MiT has feature maps,",
        "but keras-hub 0.32 cannot copy its layers.) The layers were suggested, prototypes were "
        "fitted, and one letKD step was",
        "trained. The student was then exported to TFLite (float32) and compared with Keras in a "
        "new process.",
        "",
        "```sh",
        command,
        "```",
        "",
        f"The images are noise of {SIZE} x {SIZE} pixels in {CLASSES} classes, and a batch has "
        f"{BATCH} of them. The networks have fresh",
        "weights. There are 16 penultimate templates. Architectures of keras-hub are small "
        "versions, built from arguments. The",
        "command measures only what the page does not have yet, so the rows are of several runs, "
        f"the last one on {datetime.date.today()}.",
        "",
        "The numbers after a layer are its grid and channels. Where no intermediate layer is "
        "suggested, letKD-1 was trained. The",
        "bytes are those of the TFLite file of the student with KD layers. The difference is the "
        "largest difference of a logit.",
        "",
        "| architecture | library | parameters | penultimate layer | intermediate layer "
        "| trained | TFLite bytes | difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(passed, key=lambda row: (row["library"], row["name"].lower())):
        trained = "letKD-2" if len(row["levels"]) == 2 else "letKD-1"
        if row["name"] in TEACHERS_ONLY:
            trained += ", as teacher of resnet8"
        lines.append(
            f"| {row['name']} | {row['library']} | {row['parameters']:,} | {row['penultimate']} "
            f"| {row['intermediate'] or '-'} | {trained} | {row['bytes']:,} "
            f"| {row['difference']:.1e} |"
        )
    failed = [row for row in rows if "error" in row]
    if failed:
        lines += ["", "## Refused", ""]
        lines += ["| architecture | library | step | error |"]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {row['name']} | {row['library']} | {row['failed']} "
            f"| {row['error'][:120].replace('|', '/')} |"
            for row in failed
        ]
    return "\n".join(lines) + "\n"


def read_table(page):
    """The rows of a page that `table` wrote and that passed, by library and name."""
    rows = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) != 8 or not cells[2].replace(",", "").isdigit():
            continue
        name, library, parameters, penultimate, intermediate, trained, size, difference = cells
        has_both = trained.startswith("letKD-2")
        rows[library, name] = {
            "library": library,
            "name": name,
            "parameters": int(parameters.replace(",", "")),
            "penultimate": penultimate,
            "intermediate": None if intermediate == "-" else intermediate,
            "levels": ["penultimate", "intermediate"] if has_both else ["penultimate"],
            "bytes": int(size.replace(",", "")),
            "difference": float(difference),
        }
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, default=Path("runs/architectures.jsonl"))
    parser.add_argument("--out", type=Path, help="the Markdown page to write")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures to run")
    parser.add_argument("--minutes", type=float, help="start no further one after this time")
    parser.add_argument("--retry", action="store_true", help="repeat rows that failed")
    options = parser.parse_args()

    from letkd_keras.files import write_text

    start = time.monotonic()
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    rows = {}
    if options.out and options.out.is_file():
        rows = read_table(options.out.read_text())
    if options.rows.is_file():
        for line in options.rows.read_text().splitlines():
            row = json.loads(line)
            rows[row["library"], row["name"]] = row
    for library, name, build in classifiers(hub_backbones()):
        known = rows.get((library, name))
        if options.only and name not in options.only:
            continue
        if known and not (options.retry and "error" in known):
            continue
        if options.minutes and time.monotonic() - start > 60 * options.minutes:
            break
        student = small_student if name in TEACHERS_ONLY else build
        row = {"library": library, "name": name, **measure(build, student)}
        rows[library, name] = row
        with options.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), file=sys.stderr, flush=True)
    if options.out:
        write_text(
            options.out,
            table(
                list(rows.values()),
                "python benchmarks/architectures.py --out docs/architectures.md",
            ),
        )


if __name__ == "__main__":
    main()
