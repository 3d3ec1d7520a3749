import json
import shutil

import keras
import numpy as np
import pytest
from random_students import with_kd_layers

from letkd_keras import models
from letkd_keras.export import (
    Exported,
    ExportMismatch,
    comparison,
    export_bundle,
    fold,
    formats,
)
from letkd_keras.export.artifact_verification import verify_artifacts
from letkd_keras.export.card import describe_kd_layers, read_card, write_card
from letkd_keras.export.card_markdown import describe_input, markdown
from letkd_keras.export.comparison import Comparison
from letkd_keras.export.job import prepare_job
from letkd_keras.files import checksum
from letkd_keras.functional import cost_of
from letkd_keras.functional.fingerprint import fingerprint

_MEAN, _STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def images():
    """Pixels of eight images."""
    return np.random.default_rng(5).integers(0, 256, (8, 16, 16, 3), "uint8")


@pytest.fixture(scope="module")
def labels(student, images):
    """The classes that the small student gives these images."""
    normalized = (images / 255 - np.array(_MEAN)) / np.array(_STD)
    return np.asarray(student(normalized.astype("float32"))).argmax(-1)


@pytest.fixture(scope="module")
def bundle(student, images, labels, tmp_path_factory):
    """A folder of TFLite and ONNX with their card."""
    folder = tmp_path_factory.mktemp("bundle")
    export_bundle(
        student,
        folder,
        ("tflite", "onnx"),
        images=images,
        labels=labels,
        mean=_MEAN,
        std=_STD,
        class_names=tuple("abcde"),
        data_name="noise with labels",
    )
    return folder


@pytest.fixture
def copy(bundle, tmp_path):
    """A copy of the folder and a function that changes an entry of an artifact in its card."""
    folder = shutil.copytree(bundle, tmp_path / "copy")

    def change(name, **entries):
        card = json.loads((folder / "card.json").read_text())
        card["artifacts"][name].update(entries)
        (folder / "card.json").write_text(json.dumps(card))

    return folder, change


def test_card_describes_the_artifacts(student, bundle):
    card = read_card(bundle)
    assert card["student"] == fingerprint(student)
    assert card["inputs"]["shape"] == [16, 16, 3]
    assert card["outputs"] == {"kind": "logits", "classes": 5}
    assert card["class_names"] == list("abcde")
    assert card["parameters"] == student.count_params()
    assert set(card["artifacts"]) == {"tflite", "onnx"}
    for artifact in card["artifacts"].values():
        file = bundle / artifact["file"]
        assert artifact["sha256"] == checksum(file)
        assert artifact["bytes"] == file.stat().st_size
        assert artifact["agreement"] == artifact["accuracy"] == 1
        assert artifact["accuracy_of_student"] == 1
        assert (artifact["images"], artifact["data"]) == (8, "noise with labels")
        assert artifact["parameters"] == fold(student).count_params() + 6  # scaling of pixels


def test_markdown_has_input_and_output_in_a_line_each(bundle):
    lines = (bundle / "card.md").read_text().splitlines()
    assert (
        "- Input `image`: RGB, 0 to 255, 16 x 16, bilinear resize of the shorter side, center crop"
    ) in lines
    assert "- Tensor: float32 [batch, 16, 16, 3], NHWC" in lines
    assert (
        "- Output `logits`: [batch, 5]. These are logits; their softmax gives probabilities."
    ) in lines
    assert any(
        "KD layer `kd_penultimate` after `penultimate`: 24 templates" in line for line in lines
    )
    assert "- Signature of TFLite files and of the SavedModel: `serving_default`" in lines
    assert not any("Warning" in line for line in lines)


def test_signatures_are_those_of_the_formats(bundle):
    card = read_card(bundle)
    tflite, onnx = (card["artifacts"][name] for name in ("tflite", "onnx"))
    of_savedmodel = "- Signature `classify` of the SavedModel: uint8 images to `probabilities`"
    with_names = {**card, "artifacts": {"savedmodel": tflite}}
    assert f"{of_savedmodel} and `class_name`" in markdown(with_names).splitlines()
    assert of_savedmodel in markdown({**with_names, "class_names": None}).splitlines()
    assert "Signature" not in markdown({**card, "artifacts": {"onnx": onnx}})


@pytest.mark.parametrize(
    ("shape", "crop", "line", "part"),
    [
        (
            [16, 24, 3],
            1.0,
            "RGB, 0 to 255, 16 x 24, center crop to the sides 24:16, bilinear resize",
            "the largest part of a photo around its center with the sides 24:16",
        ),
        (
            [16, 24, 3],
            0.875,
            "RGB, 0 to 255, 16 x 24, center crop to the sides 24:16 (the inner 87.5%), bilinear "
            "resize",
            "87.5% of the largest part of a photo around its center with the sides 24:16",
        ),
        (
            [None, 24, 3],
            1.0,
            "RGB, 0 to 255, any size (checked on 16 x 16), bilinear resize of the shorter side, "
            "center crop",
            None,
        ),
        (
            [8, 16, 24, 1],
            1.0,
            "grayscale, 0 to 255, 8 x 16 x 24, bilinear resize of the shorter side, center crop",
            None,
        ),
    ],
    ids=["oblong", "oblong, cropped", "open", "volumes"],
)
def test_images_that_are_not_square(bundle, shape, crop, line, part):
    card = read_card(bundle)
    card["inputs"] |= {"shape": shape, "crop": crop}
    assert describe_input(card["inputs"]) == line
    text = markdown(card)
    assert ("```kotlin" in text) == (part is not None)
    if part is not None:
        assert f"// part: {part}." in text.splitlines()
        assert "    while (scaled.width >= 48 && scaled.height >= 32)" in text.splitlines()


def test_input_line_of_normalized_images(student, images, tmp_path):
    given = {"mean": _MEAN, "std": _STD, "crop": 0.875, "images": images}
    export_bundle(student, tmp_path, ("onnx",), input="normalized", **given)
    assert (
        "- Input `image`: RGB, 16 x 16, bilinear resize of the shorter side to 18, center crop, "
        "normalized: (pixel / 255 - mean) / std for each channel, mean 0.5000, 0.4000, 0.3000, "
        "std 0.2000, 0.2500, 0.3000"
    ) in (tmp_path / "card.md").read_text().splitlines()


@pytest.mark.parametrize(
    ("given", "mean", "std"),
    [
        (
            {"mean": np.float32([0.5, 0.25, 0.5]), "std": np.float32([0.25] * 3)},
            [0.5, 0.25, 0.5],
            0.25,
        ),
        ({"mean": 0.5, "std": 0.25}, [0.5] * 3, 0.25),
        ({"mean": [0.5], "std": (0.25,)}, [0.5] * 3, 0.25),
        ({"mean": np.float64(0.5), "std": np.array(1)}, [0.5] * 3, 1),
    ],
)
@pytest.mark.parametrize("names", [range(5), np.arange(5)])
def test_card_has_numbers_and_texts_of_any_type(student, tmp_path, given, mean, std, names):
    job = prepare_job(student, class_names=names, crop=0.875, input="normalized", **given)
    write_card(tmp_path, job, {})
    card = read_card(tmp_path)
    assert (card["inputs"]["mean"], card["inputs"]["std"]) == (mean, [std] * 3)
    assert card["class_names"] == list("01234")
    assert (tmp_path / "labels.txt").read_text() == "0\n1\n2\n3\n4\n"
    assert "- Classes, in the order of `labels.txt`: 0, 1, 2, 3, 4" in (
        (tmp_path / "card.md").read_text().splitlines()
    )


def test_names_are_the_same_in_the_card_and_in_the_labels(student, tmp_path):
    job = prepare_job(student, class_names=("a  b", "c\td", "e", "f", "g"))
    write_card(tmp_path, job, {})
    names = (tmp_path / "labels.txt").read_text().splitlines()
    assert names == read_card(tmp_path)["class_names"] == ["a b", "c d", "e", "f", "g"]


def test_labels_are_one_class_a_line(bundle):
    assert (bundle / "labels.txt").read_text() == "a\nb\nc\nd\ne\n"


def test_metadata_are_those_of_a_model_card_of_hugging_face(bundle):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    card = huggingface_hub.ModelCard((bundle / "card.md").read_text())
    assert card.data.library_name == "litert"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.metrics == ["accuracy"]
    assert card.data.tags[-2:] == ["tflite", "onnx"]
    assert card.data.model_name == "resnet8"
    results = {result.metric_name: result for result in card.data.eval_results}
    assert set(results) == {"accuracy of tflite", "accuracy of onnx"}
    result = results["accuracy of onnx"]
    assert (result.metric_type, result.metric_value) == ("accuracy", 1.0)
    assert (result.task_type, result.dataset_name) == ("image-classification", "noise with labels")
    assert card.text.strip().startswith("# resnet8")


def test_metadata_are_json_values_between_dashes(bundle):
    lines = (bundle / "card.md").read_text().splitlines()
    assert lines[0] == "---"
    metadata = dict(line.split(": ", 1) for line in lines[1 : lines.index("---", 1)])
    values = {key: json.loads(value) for key, value in metadata.items()}
    assert values["library_name"] == "litert"
    (entry,) = values["model-index"]
    assert [metric["value"] for metric in entry["results"][0]["metrics"]] == [1.0, 1.0]


def test_programs_of_the_card(bundle):
    card = (bundle / "card.md").read_text()
    kotlin = card.split("```kotlin\n")[1].split("```")[0]
    assert "    while (scaled.width >= 32 && scaled.height >= 32)\n" in kotlin
    assert "    scaled = Bitmap.createScaledBitmap(scaled, 16, 16, true)\n" in kotlin
    assert "ByteBuffer.allocateDirect(3072)" in kotlin
    assert "val logits = Array(1) { FloatArray(5) }" in kotlin
    assert "// part: the center square of a photo; its side is the shorter side" in kotlin
    assert "// Returns the number of the class, from 0, which is that of its line in" in kotlin
    assert "// In com.google.ai.edge.litert:litert, versions 1.4, or 2.1 and later." in kotlin
    assert "// This function has not been compiled." in kotlin
    assert "// model: a direct ByteBuffer in native byte order with the bytes of student" in kotlin
    assert "gives the file float32 pixels from 0 to 255." in kotlin
    assert kotlin.count("{") == kotlin.count("}")
    assert kotlin.count("(") == kotlin.count(")")


def test_kotlin_function_says_what_to_crop(student, tmp_path):
    export_bundle(student, tmp_path, ("tflite",), mean=_MEAN, std=_STD, crop=0.875)
    kotlin = (tmp_path / "card.md").read_text().split("```kotlin\n")[1].split("```")[0]
    square = "the center square of a photo; its side is 87.5% of the shorter side of the photo"
    assert f"// part: {square}." in kotlin.splitlines()
    assert "// Returns the number of the class, from 0." in kotlin.splitlines()


def test_kd_layers_follow_the_layers_that_were_chosen(student):
    layers = describe_kd_layers(student)
    assert [(layer["after"], layer["templates"]) for layer in layers] == [
        ("intermediate", 16),
        ("penultimate", 24),
    ]


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (
            {"accuracy_last": 70.0, "accuracy_best": 71.0, "best_epoch": 3, "epochs": 4},
            "- Weights: the last of 4 epochs, without any selection; test accuracy 70.00%",
        ),
        (
            {
                "accuracy_selected": 69.0,
                "accuracy_validation": 72.5,
                "best_epoch": 3,
                "epochs": 4,
            },
            "- Weights: epoch 3 of 4, selected on validation images (accuracy 72.50%); test "
            "accuracy 69.00%",
        ),
        (
            {
                "accuracy_last": 70.0,
                "accuracy_best": 71.0,
                "best_epoch": 3,
                "epochs": 3,
                "accuracy_before_quantization": 70.5,
            },
            "- Quantization-aware training: these epochs and this accuracy are under fake "
            "quantization. The student was trained in float before, to a test accuracy of 70.50%",
        ),
    ],
)
def test_markdown_says_which_images_selected_the_weights(student, images, tmp_path, result, line):
    job = prepare_job(student, images=images / 255)
    config = {"pair": "a-b", "data": {"name": "blocks", "split": "made for tests"}}
    write_card(tmp_path, job, {}, training={"run": "r", "config": config, "result": result})
    lines = (tmp_path / "card.md").read_text().splitlines()
    assert line in lines
    assert "- Data: blocks, made for tests" in lines
    assert "- Training: run r, pair a-b" in lines


_FEW = "; the student was trained on 60 of the training images"


@pytest.mark.parametrize(
    ("file", "trained", "data"),
    [
        ("kd/seed2/student.keras", ", method kd, seed 2", _FEW),
        ("kd/seed2/float/student.keras", ", method kd, seed 2", _FEW),
        ("teacher/teacher.keras", ", method teacher, seed 0", ""),
        ("other.keras", "", _FEW),
    ],
)
def test_markdown_has_method_and_seed_of_this_student(
    student, images, tmp_path, file, trained, data
):
    job = prepare_job(student, images=images / 255)
    config = {"pair": "a-b", "export_method": "letkd2", "seed": 0, "student_examples": 60}
    config["data"] = {"name": "blocks", "split": "seed 0"}
    write_card(tmp_path, job, {}, training={"run": "r", "student": file, "config": config})
    lines = (tmp_path / "card.md").read_text().splitlines()
    assert f"- Training: run r, pair a-b{trained}" in lines
    assert f"- Data: blocks, seed 0{data}" in lines


def test_markdown_has_templates_of_the_run_only_for_students_with_kd_layers(
    student, images, tmp_path
):
    plain = models.build("resnet8", num_classes=5, input_shape=(16, 16, 3))
    config = {"pair": "a-b", "templates": 24, "subclasses": 2}
    for model, templates in ((student, ", templates 24, subclasses 2"), (plain, "")):
        job = prepare_job(model, images=images / 255)
        write_card(tmp_path, job, {}, training={"run": "r", "config": config})
        lines = (tmp_path / "card.md").read_text().splitlines()
        assert f"- Training: run r, pair a-b{templates}" in lines
        warnings = [line for line in lines if line.startswith("- Warning: the statistics of ")]
        assert len(warnings) == (model is plain)  # which was never trained


def test_multiply_adds_are_those_of_the_files(student, images, tmp_path):
    export_bundle(student, tmp_path, ("tflite",), images=images / 255, fold=False)
    card = read_card(tmp_path)
    # The file computes the values of every KD layer at each location.
    expected = cost_of(student).multiply_adds
    assert expected > cost_of(student, pooled=True).multiply_adds
    assert card["multiply_adds"] == card["artifacts"]["tflite"]["multiply_adds"] == expected
    text = (tmp_path / "card.md").read_text()
    assert f"- Multiply-adds: {expected:,} as trained" in text.splitlines()


def test_multiply_adds_of_an_open_size_are_those_of_the_images(tmp_path):
    inputs = keras.Input((None, None, 3))
    maps = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(inputs))
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    job = prepare_job(
        keras.Model(inputs, keras.layers.Dense(2)(pooled)),
        images=np.zeros((2, 8, 10, 3), "uint8"),
    )
    card = write_card(tmp_path, job, _written(tmp_path, "tflite"))
    expected = 6 * 8 * 3 * 3 * 3 * 4 + 4 * 2
    assert card["multiply_adds"] == card["artifacts"]["tflite"]["multiply_adds"] == expected
    lines = (tmp_path / "card.md").read_text().splitlines()
    assert f"- Multiply-adds: {expected:,} as trained, for 8 x 10" in lines


def test_formats_exported_later_are_added_to_the_card(student, images, copy, caplog):
    folder, _ = copy
    export_bundle(
        student,
        folder,
        ("tflite-dynamic",),
        images=images,
        mean=_MEAN,
        std=_STD,
        verify={"tflite-dynamic": {"min_agreement": 0}},
    )
    assert set(read_card(folder)["artifacts"]) == {"tflite", "onnx", "tflite-dynamic"}
    assert "of an earlier export" not in caplog.text
    # Artifacts with other inputs or of another student are not part of the card.
    export_bundle(student, folder, ("tflite",), images=images / 255, input="normalized")
    assert set(read_card(folder)["artifacts"]) == {"tflite"}
    left = "its card no longer describes them: student.onnx, student_dynamic.tflite"
    assert left in caplog.text
    export_bundle(
        with_kd_layers("resnet8", templates=(8, 8)), folder, ("onnx",), images=images / 255
    )
    assert set(read_card(folder)["artifacts"]) == {"onnx"}


def test_artifacts_of_an_earlier_export_keep_what_was_said_of_them(student, images, tmp_path):
    known = {"mean": _MEAN, "std": _STD}
    export_bundle(student, tmp_path, ("onnx",), channels_first=True, fold=False, **known)
    earlier = read_card(tmp_path)["artifacts"]["onnx"]
    assert (earlier["layout"], earlier["images"], earlier["data"]) == ("NCHW", 8, "noise")
    assert earlier["parameters"] == student.count_params() + 6  # scaling of pixels
    labels = np.zeros(5, int)
    export_bundle(
        *(student, tmp_path, ("tflite",)),
        **{"images": images[:5], "labels": labels, "data_name": "test set", **known},
    )
    card = read_card(tmp_path)
    assert card["artifacts"]["onnx"] == earlier
    later = card["artifacts"]["tflite"]
    assert (later["layout"], later["images"], later["data"]) == ("NHWC", 5, "test set")
    lines = (tmp_path / "card.md").read_text().splitlines()
    assert "- Tensor of `student.tflite`: float32 [batch, 16, 16, 3], NHWC" in lines
    assert "- Tensor of `student.onnx`: float32 [batch, 3, 16, 16], NCHW" in lines
    rows = {line.split(" | ")[0]: line for line in lines if line.startswith("| ")}
    assert f"| {earlier['parameters']:,} |" in rows["| onnx"]
    assert f"| {later['parameters']:,} |" in rows["| tflite"]
    assert "| 8 (noise) |" in rows["| onnx"]
    assert "| - | - |" in rows["| onnx"]
    assert "| 5 (test set) |" in rows["| tflite"]


def test_labels_of_an_earlier_export_are_removed(student, copy, caplog):
    folder, _ = copy
    export_bundle(student, folder, ("tflite",))
    assert read_card(folder)["class_names"] is None
    assert not (folder / "labels.txt").exists()
    assert "labels.txt is not of this export" not in caplog.text
    # A file of somebody else stays.
    (folder / "labels.txt").write_text("mine")
    export_bundle(student, folder, ("tflite",))
    assert (folder / "labels.txt").read_text() == "mine"
    assert "labels.txt is not of this export" in caplog.text


def _rescaled(scale, offset):
    """A classifier of pixels; its weights are the same for each scale."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(scale, offset)(inputs)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    x = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="rescaled")


def _written(folder, *names):
    """What an export says of files that it wrote; here they are of a byte each."""
    results = {}
    for name in names:
        path = folder / formats.find(name).file_name
        path.write_bytes(b"0")
        known = {"max_difference": 0.0, "scale": 1.0, "agreement": 1.0}
        known |= {"num_images": 8, "num_classes": 4}
        results[name] = Exported(path=path, format=name, bytes=1, parameters=9, **known)
    return results


def test_files_with_other_class_names_or_layers_are_not_described(tmp_path):
    student, names = _rescaled(1 / 255, 0), {"class_names": ("a", "b")}

    def files_after(student, **options):
        write_card(tmp_path, prepare_job(_rescaled(1 / 255, 0), **names), written)
        write_card(tmp_path, prepare_job(student, **options), {})
        return list(read_card(tmp_path)["artifacts"])

    written = _written(tmp_path, "savedmodel", "tflite")
    assert files_after(student, **names) == ["savedmodel", "tflite"]
    # Its endpoint `classify` returns the names.
    assert files_after(student, class_names=("c", "d")) == ["tflite"]
    assert files_after(student) == ["tflite"]
    other = _rescaled(1 / 127.5, -1)
    assert fingerprint(other) == fingerprint(student)
    assert files_after(other, **names) == []


@pytest.mark.parametrize(
    ("changes", "stay"),
    [
        ({}, True),
        ({"crop": 0.5}, True),
        ({"mean": 0.25}, False),
        ({"std": 0.25}, False),
        ({"input": "normalized"}, False),
        ({"output": "probabilities"}, False),
    ],
)
def test_files_with_other_inputs_or_outputs_are_not_described(changes, stay, tmp_path, caplog):
    student, given = _rescaled(2.0, 0), {"mean": 0.5, "std": 0.5}
    write_card(tmp_path, prepare_job(student, **given), _written(tmp_path, "tflite"))
    write_card(tmp_path, prepare_job(student, **{**given, **changes}), {})
    assert list(read_card(tmp_path)["artifacts"]) == ["tflite"] * stay
    assert "is damaged" not in caplog.text


def test_files_that_are_lost_or_were_changed_are_not_described(tmp_path):
    job = prepare_job(_rescaled(1 / 255, 0))
    write_card(tmp_path, job, _written(tmp_path, "tflite", "onnx", "tflite-int8"))
    (tmp_path / "student.tflite").unlink()
    (tmp_path / "student.onnx").write_bytes(b"1")
    write_card(tmp_path, job, {})
    assert list(read_card(tmp_path)["artifacts"]) == ["tflite-int8"]


def test_class_names_do_not_matter_where_no_file_has_them(tmp_path):
    # Without known pixels a SavedModel has no endpoint `classify`.
    for names, written in (("ab", _written(tmp_path, "savedmodel")), ("cd", {})):
        write_card(tmp_path, prepare_job(_rescaled(2.0, 0), class_names=names), written)
    assert list(read_card(tmp_path)["artifacts"]) == ["savedmodel"]


def test_entries_are_of_the_formats_that_have_the_options(tmp_path):
    names = "onnx", "tflite", "tflite-int4", "tflite-int8"
    given = {"channels_first": True, "precision": {"conv": "int8"}, "integer_io": True}
    job = prepare_job(_rescaled(2.0, 0), input="normalized", **given)
    artifacts = write_card(tmp_path, job, _written(tmp_path, *names))["artifacts"]
    assert [artifacts[name]["layout"] for name in names] == ["NCHW", *["NHWC"] * 3]
    assert [artifacts[name].get("precision") for name in names] == [
        *(None, None, {"conv": "int8"}, None)
    ]
    types = [(artifacts[name]["input_dtype"], artifacts[name]["output_dtype"]) for name in names]
    assert types == [("float32", "float32")] * 3 + [("int8", "int8")]
    job = prepare_job(_rescaled(2.0, 0), input="normalized", precision={})
    artifacts = write_card(tmp_path, job, _written(tmp_path, "tflite-int4"))["artifacts"]
    assert "precision" not in artifacts["tflite-int4"]


def test_files_that_were_checked_on_another_size_are_not_described(tmp_path):
    inputs = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    student = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    written = _written(tmp_path, "tflite")
    for size, files in ((8, ["tflite"]), (8, ["tflite"]), (12, [])):
        job = prepare_job(student, images=np.zeros((2, size, size, 3), "uint8"))
        write_card(tmp_path, job, written)
        assert list(read_card(tmp_path)["artifacts"]) == files
        assert read_card(tmp_path)["inputs"]["checked_size"] == [size, size]
        written = {}


def test_tensor_has_the_type_of_the_files(tmp_path):
    def tensors(*names):
        job = prepare_job(_rescaled(1 / 255, 0), integer_io=True)
        write_card(tmp_path, job, _written(tmp_path, *names))
        lines = (tmp_path / "card.md").read_text().splitlines()
        return [line for line in lines if line.startswith("- Tensor")]

    assert tensors("tflite-int8") == ["- Tensor: uint8 [batch, 8, 8, 3], NHWC"]
    assert tensors("tflite", "savedmodel") == [
        "- Tensor of `student_int8.tflite`: uint8 [batch, 8, 8, 3], NHWC",
        "- Tensor of `student.tflite`, `savedmodel`: float32 [batch, 8, 8, 3], NHWC",
    ]


def test_an_artifact_of_an_earlier_version_is_not_described(student, copy):
    folder, _ = copy
    card = json.loads((folder / "card.json").read_text())
    del card["artifacts"]["onnx"]["layout"]
    (folder / "card.json").write_text(json.dumps(card))
    export_bundle(student, folder, ("tflite",), mean=_MEAN, std=_STD)
    assert set(read_card(folder)["artifacts"]) == {"tflite"}


def test_a_card_of_an_earlier_version_is_replaced_with_a_warning(student, copy, caplog):
    folder, _ = copy
    card = json.loads((folder / "card.json").read_text())
    for artifact in card["artifacts"].values():
        del artifact["min_accuracy"]
    (folder / "card.json").write_text(json.dumps(card))
    export_bundle(student, folder, ("tflite", "savedmodel"), mean=_MEAN, std=_STD)
    warnings = [x.message for x in caplog.records if "of an earlier version" in x.message]
    expected = "is damaged, or of an earlier version: the new card describes only the files of this"
    assert len(warnings) == 1 and f"{folder / 'card.json'} {expected}" in warnings[0]
    assert set(read_card(folder)["artifacts"]) == {"tflite", "savedmodel"}


def test_verify_accepts_what_was_exported(student, images, labels, bundle):
    results = verify_artifacts(bundle, student, images=images, labels=labels)
    assert {name: result.accuracy for name, result in results.items()} == {"tflite": 1, "onnx": 1}


def test_verify_finds_a_file_that_changed(student, images, copy):
    folder, _ = copy
    with (folder / "student.onnx").open("ab") as file:
        file.write(b"\0")
    results = verify_artifacts(folder, student, images=images)
    assert isinstance(results["onnx"], ExportMismatch)
    assert isinstance(results["tflite"], Comparison)


def test_verify_has_the_limits_of_the_card(student, images, labels, copy, monkeypatch):
    monkeypatch.setattr(comparison, "_ENOUGH_LABELS", 1)
    folder, change = copy
    change("tflite", min_agreement=1.1)
    change("onnx", min_agreement=1.1, min_accuracy=1)
    results = verify_artifacts(folder, student, images=images, labels=labels)
    assert "agrees with the student on less than 110.0%" in str(results["tflite"])
    assert isinstance(results["onnx"], Comparison)
    # On noise, top-1 classes mean nothing.
    assert isinstance(verify_artifacts(folder, student)["tflite"], Comparison)


def test_verify_refuses_another_student(bundle):
    with pytest.raises(ValueError, match="its weights differ from those in the card"):
        verify_artifacts(bundle, with_kd_layers("resnet8", templates=(8, 8)))


@pytest.mark.parametrize("file", ["../outside.tflite", "/etc/passwd", "sub/student.tflite", 3])
def test_files_outside_the_folder_are_not_opened(student, copy, file):
    folder, change = copy
    shutil.copy(folder / "student.tflite", folder.parent / "outside.tflite")
    change("tflite", file=file)
    with pytest.raises(ValueError, match=r"must list 'student.tflite', in the folder of the card"):
        verify_artifacts(folder, student)


def test_links_that_lead_outside_are_refused(student, copy):
    folder, _ = copy
    (folder / "student.tflite").rename(folder.parent / "outside.tflite")
    (folder / "student.tflite").symlink_to(folder.parent / "outside.tflite")
    with pytest.raises(ValueError, match="must not contain links that lead outside its folder"):
        verify_artifacts(folder, student)


def test_links_inside_a_folder_are_checked(copy):
    folder, _ = copy
    card = json.loads((folder / "card.json").read_text())
    card["artifacts"] = {"savedmodel": {**card["artifacts"]["tflite"], "file": "savedmodel"}}
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "savedmodel").mkdir()
    (folder / "savedmodel" / "saved_model.pb").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match=r"links that lead outside.*/etc/passwd"):
        read_card(folder)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is damaged: it is not a JSON file"),
        ("[]", "is damaged: it does not describe a student"),
        (
            '{"student": "a", "artifacts": {"tflite": 1}}',
            "is damaged, or of an earlier version: tflite must have",
        ),
        ('{"student": "a", "artifacts": {"caffe": {}}}', "`artifacts` must be one of savedmodel"),
        (
            '{"student": "a", "artifacts": {"onnx": {"file": "student.onnx", "sha256": "", '
            '"tolerance": "1", "min_agreement": 1, "min_accuracy": null}}}',
            "`tolerance` of onnx must be a number or null",
        ),
    ],
)
def test_damaged_cards(tmp_path, text, match):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_card(tmp_path)


def test_folder_without_a_card(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`folder` must be a folder with a card\.json"):
        read_card(tmp_path)


def test_a_refused_format_leaves_the_others_and_their_card(student, images, tmp_path):
    impossible = {"tflite": {"tolerance": 1e-12}}
    with pytest.raises(ExportMismatch, match="tflite of 'resnet8' differs"):
        export_bundle(student, tmp_path, ("tflite", "onnx"), images=images / 255, verify=impossible)
    assert set(read_card(tmp_path)["artifacts"]) == {"onnx"}
    assert {file.name for file in tmp_path.iterdir()} == {"student.onnx", "card.json", "card.md"}


@pytest.fixture
def stop_onnx(monkeypatch):
    """Makes the format onnx end in an error."""

    def stop(error):
        write = formats.Format.write

        def write_or_stop(form, *args):
            if form.file_name == "student.onnx":
                raise error
            write(form, *args)

        monkeypatch.setattr(formats.Format, "write", write_or_stop)

    return stop


@pytest.mark.parametrize("error", [ValueError, ImportError])
def test_a_format_that_cannot_be_written_is_refused_alone(
    student, images, tmp_path, stop_onnx, error
):
    stop_onnx(error("no such layer"))
    with pytest.raises(ExportMismatch, match=r"^onnx: no such layer$") as refused:
        export_bundle(student, tmp_path, ("onnx", "tflite"), images=images / 255)
    assert set(refused.value.exported) == {"tflite"}
    assert set(read_card(tmp_path)["artifacts"]) == {"tflite"}
    assert {file.name for file in tmp_path.iterdir()} == {"student.tflite", "card.json", "card.md"}


def test_an_interrupted_export_has_the_card_of_its_files(student, images, copy, stop_onnx):
    folder, _ = copy
    stop_onnx(KeyboardInterrupt())
    options = {"images": images, "mean": _MEAN, "std": _STD, "output": "probabilities"}
    with pytest.raises(KeyboardInterrupt):
        export_bundle(student, folder, ("tflite", "onnx"), **options)
    card = read_card(folder)
    assert card["outputs"]["kind"] == "probabilities"
    assert set(card["artifacts"]) == {"tflite"}
    assert card["artifacts"]["tflite"]["sha256"] == checksum(folder / "student.tflite")


def test_precision_is_checked_before_anything_is_written(student, tmp_path):
    with pytest.raises(ValueError, match="`precision` must name layers with kernels") as refused:
        export_bundle(student, tmp_path, ("tflite", "tflite-int4"), precision={"nope": "int8"})
    assert not isinstance(refused.value, ExportMismatch)
    assert list(tmp_path.iterdir()) == []


def test_int8_without_calibration_fails_before_anything_is_written(student, images, tmp_path):
    with pytest.raises(ValueError, match="`calibration` must be given for this format"):
        export_bundle(student, tmp_path, ("tflite", "tflite-int8"), images=images)
    assert list(tmp_path.iterdir()) == []
