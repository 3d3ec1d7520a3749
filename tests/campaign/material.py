"""Files and folders that the bad inputs are made of: good ones, and ones that are wrong inside.

`make_material` writes all of them, without a long training. `damage` breaks a copy of a good one.
"""

import contextlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from letkd_keras.data import DataSpec
from letkd_keras.data.npz import save_npz
from letkd_keras.files import checksum, write_json
from letkd_keras.functional import fingerprint
from letkd_keras.prototypes import fit_prototypes


def make_material(folder):
    """Write everything into a new folder.

    Contents: `digits.npz`, `photos`, `teacher.keras`, `student.keras`, `prototypes.npz`, and `bad`
    with files that are complete but not what a command needs.
    """
    folder = Path(folder)
    (folder / "bad").mkdir(parents=True)
    _write_photos(folder / "photos")
    data = DataSpec("digits", train_examples=40, test_examples=20).open()
    save_npz(data, folder / "digits.npz")
    _write_bad_data(folder)
    teacher = _classifier(10, width=6, seed=0)
    teacher.save(folder / "teacher.keras")
    _classifier(10, width=4, seed=1).save(folder / "student.keras")
    images = data.x_train.astype("float32") / 255, data.y_train
    options = {"templates": 8, "subclasses": 2, "components": 3, "iterations": 2}
    fit_prototypes(teacher, images, **options, verbose=False).save(folder / "prototypes.npz")
    _write_bad_prototypes(folder)
    _write_bad_models(folder)
    write_bad_weights(folder / "bad")
    _write_odd_folders(folder)
    return folder


def _classifier(classes, width, seed, size=32, activation=None):
    """Two stages of one convolution each; names as in the zoo."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(width, 3, 4, padding="same", activation="relu", name="intermediate")(
        inputs
    )
    x = keras.layers.Conv2D(2 * width, 3, 2, padding="same", activation="relu", name="penultimate")(
        x
    )
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(classes, activation=activation, name="logits")(x)
    return keras.Model(inputs, outputs, name=f"net{width}")


def _write_photos(folder):
    r = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        (folder / label).mkdir(parents=True)
        for number in range(6):
            pixels = r.integers(0, 256, (12, 12, 3), "uint8")
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


# === .npz files of data ===


def _write_bad_data(folder):
    with np.load(folder / "digits.npz") as file:
        good = dict(file)

    def write(stem, **changes):
        arrays = {key: value for key, value in {**good, **changes}.items() if value is not None}
        np.savez(folder / "bad" / f"{stem}.npz", **arrays)

    x, y = good["x_train"], good["y_train"]
    write("labels_negative", y_train=y - 2)
    write("labels_too_large", y_train=y + 1)
    write("labels_fractional", y_train=y + 0.5)
    write("labels_one_hot", y_train=np.eye(10)[y])
    write("labels_texts", y_train=y.astype(str))
    write("labels_too_few", y_train=y[:-1])
    write("labels_without_class", y_train=np.where(y == 3, 4, y))
    write("labels_bool", y_train=y > 4)
    write("images_float", x_train=x / 255)
    write("images_nan", x_train=np.full(x.shape, np.nan, "float32"))
    write("images_signed", x_train=x.astype("int64"))
    write("images_flat", x_train=x.reshape(len(x), -1))
    write("images_none", x_train=x[:0], y_train=y[:0])
    write("images_two_channels", **{name: good[name][..., :2] for name in ("x_train", "x_test")})
    write("images_other_size", x_test=good["x_test"][:, :16])
    write("mean_nan", mean=np.array([np.nan] * 3))
    write("mean_two", mean=np.array([0.5, 0.5]))
    write("mean_text", mean=np.array(["a", "b", "c"]))
    write("std_zero", std=np.zeros(3))
    write("std_negative", std=np.array([1.0, 1.0, -1.0]))
    write("std_infinite", std=np.array([1.0, 1.0, np.inf]))
    write("class_names_numbers", class_names=np.arange(10))
    write("class_names_one", class_names=np.array(["a"]), y_train=0 * y, y_test=0 * good["y_test"])
    write("class_names_few", class_names=np.array(list("abcdefg")))
    write("name_number", name=np.array(3))
    write("without_labels", y_train=None)
    write("validation_images_only", x_validation=x)
    write("objects", class_names=np.array([{}, []], dtype=object))
    with zipfile.ZipFile(folder / "bad" / "not_arrays.npz", "w") as archive:
        for name in good:
            archive.writestr(f"{name}.npy", "no array")
    with zipfile.ZipFile(folder / "bad" / "huge.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in good:
            with archive.open(f"{name}.npy", "w") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (2**40,)}
                np.lib.format.write_array_header_1_0(file, header)
    with (folder / "bad" / "one_array.npz").open("wb") as file:
        np.save(file, x)
    (folder / "bad" / "text.npz").write_text("no archive")
    (folder / "bad" / "empty.npz").write_bytes(b"")


# === Prototypes ===


def _write_bad_prototypes(folder):
    with np.load(folder / "prototypes.npz") as file:
        arrays = dict(file)
    manifest = json.loads(arrays.pop("manifest").tobytes())

    def write(name, manifest, **changes):
        text = np.frombuffer(
            (manifest if isinstance(manifest, str) else json.dumps(manifest)).encode(), "uint8"
        )
        np.savez(folder / "bad" / f"prototypes_{name}.npz", manifest=text, **{**arrays, **changes})

    centers = "penultimate/centers"
    write("nan", manifest, **{centers: np.full_like(arrays[centers], np.nan)})
    write("other_centers", manifest, **{centers: arrays[centers] + 1})
    write("without_grid", _without(manifest, "levels", "penultimate", "grid"))
    write("without_levels", _without(manifest, "levels"))
    write("of_the_future", {**manifest, "format_version": 99})
    write("of_another_kind", {**manifest, "format": "recipe"})
    write("manifest_no_json", "{")
    write("manifest_list", [manifest])


def _without(value, first, *rest):
    value = dict(value)
    if rest:
        value[first] = _without(value[first], *rest)
    else:
        del value[first]
    return value


# === .keras files ===


def _write_bad_models(folder):
    bad = folder / "bad"
    _classifier(7, width=4, seed=0).save(bad / "seven_classes.keras")
    _classifier(10, width=4, seed=0, size=16).save(bad / "small_images.keras")
    _classifier(10, width=4, seed=0, activation="sigmoid").save(bad / "sigmoid.keras")
    inputs = keras.Input((32, 32, 3))
    keras.Model(inputs, keras.layers.Conv2D(10, 3)(inputs)).save(bad / "maps.keras")
    keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs))).save(
        bad / "without_maps.keras"
    )
    numbers = keras.Input((8,))
    keras.Model(numbers, keras.layers.Dense(10)(numbers)).save(bad / "of_numbers.keras")
    two = [keras.Input((32, 32, 3)) for _ in range(2)]
    flat = keras.layers.Flatten()(keras.layers.Add()(two))
    keras.Model(two, keras.layers.Dense(10)(flat)).save(bad / "two_inputs.keras")
    image = keras.Input((32, 32, 3))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    both = {"features": features, "logits": keras.layers.Dense(10)(features)}
    keras.Model(image, both).save(bad / "two_outputs.keras")

    class Subclassed(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(10)

        def call(self, inputs):
            return self.dense(keras.ops.mean(inputs, axis=(1, 2)))

    model = Subclassed()
    model(np.zeros((1, 32, 32, 3), "float32"))
    model.save(bad / "unregistered.keras")
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Lambda(lambda images: images[:, 0, 0])(inputs)
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(bad / "lambda.keras")
    _edited(folder / "teacher.keras", bad / "no_config.keras", "config.json", "{")
    _edited(folder / "teacher.keras", bad / "config_list.keras", "config.json", "[]")
    _edited(folder / "teacher.keras", bad / "no_weights.keras", "model.weights.h5", "text")
    _edited(folder / "teacher.keras", bad / "large_config.keras", "config.json", " " * 2**27)
    unknown = json.dumps({"module": "os", "class_name": "system", "config": {"name": "id"}})
    _edited(folder / "teacher.keras", bad / "names_a_function.keras", "config.json", unknown)


def _edited(source, target, name, text):
    """A copy of an archive in which one entry has another text."""
    with (
        zipfile.ZipFile(source) as good,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for entry in good.infolist():
            content = text if entry.filename == name else good.read(entry)
            archive.writestr(entry.filename, content)


# === Weights of PyTorch ===


class _RunsCode:
    def __reduce__(self):
        return os.mkdir, ("code-was-run",)


def write_bad_weights(folder):
    """Write files that are no weights of a network, to a folder that exists."""
    (folder / "code.pth").write_bytes(pickle.dumps({"model": _RunsCode()}))
    (folder / "text.pth").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (folder / "empty.pth").write_bytes(b"")
    (folder / "text.safetensors").write_text("no tensors")
    (folder / "huge.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    try:
        import torch
    except ImportError:
        return
    tensor = torch.zeros(3)
    torch.save({1: tensor, 2: tensor}, folder / "integer_keys.pth")
    torch.save({"weight": torch.eye(3).to_sparse()}, folder / "sparse.pth")
    torch.save([tensor], folder / "list.pth")
    torch.save({"epoch": 3, "model": {}}, folder / "no_weights.pth")
    torch.save({"fc.weight": tensor}, folder / "one_weight.pth")
    torch.save({"fc.weight": torch.tensor(1j)}, folder / "complex.pth")
    torch.save({"model": {"fc.weight": tensor, "epoch": 3}}, folder / "mixed.pth")


# === Folders ===


def _write_odd_folders(folder):
    bad = folder / "bad"
    (bad / "one_class" / "cat").mkdir(parents=True)
    (bad / "no_classes").mkdir()
    (bad / "no_images" / "cat").mkdir(parents=True)
    (bad / "no_images" / "dog").mkdir()
    (bad / "other_files").mkdir()
    (bad / "other_files" / "thesis.txt").write_text("mine")
    (bad / "file").write_text("mine")
    (bad / "net.weights.h5").write_text("mine")
    (bad / "saved_model").mkdir()
    (bad / "saved_model" / "saved_model.pb").write_text("mine")
    shutil.copytree(folder / "photos", bad / "broken_image")
    (bad / "broken_image" / "cat" / "0.png").write_bytes(b"no image")
    shutil.copytree(folder / "photos", bad / "half_image")
    half = bad / "half_image" / "cat" / "0.png"
    half.write_bytes(half.read_bytes()[:-200])
    shutil.copytree(folder / "photos", bad / "same_folder_twice")
    (bad / "same_folder_twice" / "fox").symlink_to("cat")
    shutil.copytree(folder / "photos", bad / "split" / "train")
    shutil.copytree(folder / "photos", bad / "split" / "val")
    (bad / "split" / "val" / "dog").rename(bad / "split" / "val" / "fox")
    (bad / "only_pipes" / "cat").mkdir(parents=True)
    (bad / "only_pipes" / "dog").mkdir()
    for label in ("cat", "dog"):
        os.mkfifo(bad / "only_pipes" / label / "0.png")
    shutil.copytree(folder / "photos", bad / "name_not_utf8")
    os.rename(bad / "name_not_utf8" / "cat", os.fsencode(bad / "name_not_utf8") + b"/\xff")  # noqa: PTH104
    (bad / "loop").symlink_to("loop")


# === Damage ===


def damage(path, kind):
    """Break a file that is good.

    Args:
        path: The file.
        kind: `truncated`, `flipped` (a bit of 128 bytes in the middle: more than the header of a
            member of a zip file, most of which readers ignore), `empty`, `text`, `list` (of JSON),
            `missing`, `folder`, or `KEY=VALUE` for another value in a JSON file.
    """
    path = Path(path)
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        first = max(0, len(content) // 2 - 64)
        flipped = bytes(byte ^ 1 for byte in content[first : first + 128])
        path.write_bytes(content[:first] + flipped + content[first + 128 :])
    elif kind in ("empty", "text", "list"):
        path.write_text({"empty": "", "text": "no such format", "list": "[1, 2]"}[kind])
    elif kind in ("missing", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    else:
        key, _, value = kind.partition("=")
        document = json.loads(content)
        *parents, last = key.split(".")
        inner = document
        for parent in parents:
            inner = inner[parent]
        if value:
            inner[last] = json.loads(value)
        else:
            del inner[last]
        path.write_text(json.dumps(document))


# === What commands leave behind ===

# Options of small runs. In a table they stand as one word.
ALIASES = {
    "SMALL": "--train-examples 40 --test-examples 20 --batch-size 20 --epochs 1 --templates 16 "
    "--subclasses 2 --components 3 --iterations 2 --methods student letkd1 "
    "--teacher {teacher.keras} --student {student.keras}",
    "UNFINISHED": "--train-examples 40 --test-examples 20 --batch-size 20 --epochs 1 --methods kd "
    "--teacher resnet8 --teacher-epochs 2 --student {student.keras}",
    "WORK": "--teacher {teacher.keras} --data digits --train-examples 40 --templates 16 "
    "--subclasses 2 --components 3 --iterations 3 --out p.npz --workdir",
}


def make_results(folder):
    """Write what commands leave: `run`, and of interrupted ones `unfinished` and `work`; `bundle`.

    Args:
        folder: Where `make_material` wrote.
    """
    from letkd_keras.prototypes import __main__ as prototypes
    from letkd_keras.prototypes.steps import WorkFolder
    from letkd_keras.recipes import compare
    from letkd_keras.recipes.trainings.training_state import SaveState

    compare.main([*_words("SMALL", folder), "--out", str(folder / "run")])
    with _interrupted_after(SaveState, "on_epoch_end"):
        compare.main([*_words("UNFINISHED", folder), "--out", str(folder / "unfinished")])
    with _interrupted_after(WorkFolder, "save_checkpoint"):
        prototypes.main([*_words("WORK", folder), str(folder / "work")])
    _write_bundle(folder)


def _words(alias, folder):
    return ALIASES[alias].replace("{", f"{folder}/").replace("}", "").split()


@contextlib.contextmanager
def _interrupted_after(kind, method):
    """Press Ctrl-C when a method has done its work for the first time."""
    original = getattr(kind, method)

    def interrupted(self, *arguments, **keywords):
        original(self, *arguments, **keywords)
        raise KeyboardInterrupt

    setattr(kind, method, interrupted)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        setattr(kind, method, original)


def _write_bundle(folder):
    """A card and an artifact, whose contents no test comes to read."""
    student = keras.models.load_model(folder / "student.keras", compile=False)
    (folder / "bundle").mkdir()
    file = folder / "bundle" / "student.tflite"
    file.write_bytes(b"not read")
    artifact = {
        "file": file.name,
        "sha256": checksum(file),
        "tolerance": 1e-4,
        "min_agreement": 1.0,
        "min_accuracy": None,
    }
    inputs = {"kind": "normalized", "shape": [32, 32, 3], "checked_size": [32, 32]}
    inputs |= {"mean": None, "std": None, "crop": 1.0}
    card = {
        "student": fingerprint(student),
        "inputs": inputs,
        "outputs": {"kind": "logits", "classes": 10},
        "artifacts": {"tflite": artifact},
    }
    write_json(folder / "bundle" / "card.json", card)
