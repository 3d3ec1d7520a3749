import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from letkd_keras import models
from letkd_keras.models.network_names import (
    APPLICATIONS,
    check_network_name,
    parse_network_name,
)

PROGRAM = Path(__file__).parents[1] / "programs" / "check_a_network_name.py"


@pytest.mark.parametrize(
    "name, kind, rest",
    [
        ("resnet56", "zoo", "resnet56"),
        ("keras.applications:VGG16", "applications", "VGG16"),
        ("keras_hub:resnet_18_imagenet", "hub", "resnet_18_imagenet"),
        ("keras_hub:presets/mine", "hub", "presets/mine"),
        ("hf://somebody/net", "hub", "hf://somebody/net"),
        ("teacher.keras", "file", "teacher.keras"),
        ("runs/teacher.keras", "file", "runs/teacher.keras"),
        ("runs/teacher", "file", "runs/teacher"),
        ("old.h5", "file", "old.h5"),
    ],
)
def test_parts_of_names(name, kind, rest):
    parsed = parse_network_name(name)
    assert (parsed.kind, parsed.name) == (kind, rest)


def test_titles():
    names = ("resnet56", "keras.applications:VGG16", "hf://somebody/net/", "runs/teacher.keras")
    titles = [parse_network_name(name).title for name in names]
    assert titles == ["resnet56", "VGG16", "net", "teacher"]


@pytest.mark.parametrize(
    "name, suggestion",
    [
        ("resnet57", "resnet56"),
        ("resnet18", "imagenet_resnet18"),
        ("ResNet101", "keras.applications:ResNet101"),
        ("efficientnetb0", "keras.applications:EfficientNetB0"),
        ("keras.applications.MobileNet", "keras.applications:MobileNet"),
        ("keras.applications:MobilNetV2", "keras.applications:MobileNetV2"),
        ("keras.applications:efficientnetb0", "keras.applications:EfficientNetB0"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(name, suggestion):
    with pytest.raises(ValueError, match="`teacher` must be") as error:
        check_network_name(name, "teacher")
    assert str(error.value).endswith(f"Received: teacher={name!r}. Did you mean {suggestion!r}?")


def test_a_name_like_nothing_has_no_suggestion():
    with pytest.raises(ValueError, match=r"Received: network='qqqqq'\.$"):
        check_network_name("qqqqq")


def test_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`student` must be a \.keras file .*not exist"):
        check_network_name(str(tmp_path / "none.keras"), "student")
    (tmp_path / "old.h5").touch()
    with pytest.raises(ValueError, match=r"Convert it.*save\('old\.keras'\)"):
        check_network_name(str(tmp_path / "old.h5"))
    (tmp_path / "new.keras").touch()
    assert check_network_name(str(tmp_path / "new.keras")).kind == "file"


def test_an_onnx_file_is_a_file_that_needs_onnx_runtime(tmp_path, monkeypatch):
    (tmp_path / "net.onnx").touch()
    assert check_network_name(tmp_path / "net.onnx").kind == "file"
    with pytest.raises(FileNotFoundError, match=r"'none\.onnx', which does not exist"):
        check_network_name("none.onnx")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "onnxruntime" else find_spec(n, *a)
    )
    with pytest.raises(
        ImportError, match=r"`teacher` needs onnxruntime: pip install onnxruntime\."
    ):
        check_network_name(tmp_path / "net.onnx", "teacher")


def test_weights_alone_and_a_saved_model_are_refused_with_what_helps(tmp_path, monkeypatch):
    (tmp_path / "net.weights.h5").touch()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    lines = r"model\.load_weights\('net\.weights\.h5'\); model\.save\('net\.keras'\)"
    monkeypatch.chdir(tmp_path)
    for folder in (".", str(tmp_path)):
        with pytest.raises(ValueError, match=rf"`student` .* not weights alone.*{lines}"):
            check_network_name(f"{folder}/net.weights.h5", "student")
        with pytest.raises(ValueError, match=r"`student` must be a \.keras file; .* a SavedModel$"):
            check_network_name(f"{folder}/saved", "student")
    with pytest.raises(ValueError, match=r"model\.save\('saved\.keras'\).*'saved', which is a Sav"):
        check_network_name("saved")
    (tmp_path / "resnet20").mkdir()
    (tmp_path / "resnet20" / "saved_model.pb").touch()
    assert check_network_name("resnet20").kind == "zoo"


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.safetensors"])
def test_of_weights_of_pytorch_the_commands_that_convert_are_named(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"`teacher` .* -m letkd_keras\.models\..*torch\.onnx\.ex"):
        check_network_name(tmp_path / name, "teacher")


@pytest.mark.parametrize("name", ["keras_hub:some_preset", "hf://somebody/net"])
def test_keras_hub_is_named_where_it_is_missing(name, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "keras_hub" else find_spec(n, *a)
    )
    with pytest.raises(ImportError, match=r"`teacher` needs keras-hub .*pip install keras-hub"):
        check_network_name(name, "teacher")


def test_a_preset_has_a_name():
    with pytest.raises(ValueError, match="must have the name of a preset"):
        check_network_name("keras_hub:")


@pytest.mark.parametrize(
    "name, default, others",
    [
        ("resnet56", "none", ()),
        ("keras.applications:VGG16", "none", ("imagenet",)),
        ("keras_hub:some_preset", "preset", ("none",)),
        ("teacher.keras", "file", ()),
    ],
)
def test_weights(name, default, others):
    parsed = parse_network_name(name)
    assert parsed.resolve_weights() == default
    for weights in (default, *others):
        assert parsed.resolve_weights(weights) == weights
    with pytest.raises(ValueError, match=r"`teacher_weights` must be .*Received: .*='best'"):
        parsed.resolve_weights("best", "teacher")


def test_names_are_checked_without_keras():
    names = ["resnet56", "keras.applications:VGG16", "resnet57"]
    done = subprocess.run(
        [sys.executable, PROGRAM, *names], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == ["zoo", "applications"]
    assert lines[2].endswith("Did you mean 'resnet56'?")


# === The table of keras.applications ===


def test_the_table_has_all_networks_of_keras_applications():
    networks = {name for name in dir(keras.applications) if name[0].isupper()}
    assert networks == set(APPLICATIONS)


def test_every_row_of_the_zoo_names_a_builder():
    for name in models.names():
        shape = (64, 64, 3) if name.startswith("imagenet_") else (32, 32, 3)
        if name in ("resnet8", "wrn16_1", "snv2", "mnv2", "imagenet_mobilenet_v1"):
            assert models.build(name, num_classes=3, input_shape=shape).output_shape == (None, 3)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_smallest_size_and_scale_are_those_of_the_module(name):
    module = inspect.getmodule(getattr(keras.applications, name))
    builders = (
        inspect.getmodule(keras.applications.ResNet50)
        if module.__name__.endswith(".resnet_v2")
        else module
    )
    source = inspect.getsource(builders)
    row = APPLICATIONS[name]
    smallest = re.search(r"min_size=(\d+)|rows < (\d+)", source)
    assert row.smallest == int(smallest[1] or smallest[2])
    modes = {"-1..1": "tf", "imagenet": "torch", "caffe": "caffe"}
    mode = f'mode="{modes[row.pixels]}"' if row.pixels in modes else None
    preprocessing = inspect.getsource(module.preprocess_input)
    assert mode in preprocessing if mode else "mode=" not in preprocessing


def test_sizes_are_those_of_the_builders():
    sizes = {"EfficientNetB3": 300, "EfficientNetB7": 600, "EfficientNetV2S": 384}
    for name, size in {**sizes, "NASNetLarge": 331, "Xception": 299, "VGG16": 224}.items():
        assert APPLICATIONS[name].size == size


def test_a_model_in_place_of_a_name_is_refused_with_what_helps():
    model = models.build("resnet8", num_classes=3)
    with pytest.raises(ValueError, match=r"`teacher` must be a name.* type Functional$"):
        check_network_name(model, "teacher")
