import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from image_trees import write_tree
from tiny_imagenet_tree import write_tiny_imagenet

from letkd_keras.commands.command_line import Parser
from letkd_keras.commands.common_options import add_data_options, add_seed_option
from letkd_keras.commands.option_types import PIXELS as NAMES
from letkd_keras.data import DataSpec, StreamedImages, load_digits
from letkd_keras.data.normalization import PIXELS, normalize, statistics_of


def test_digits_with_every_option():
    data = DataSpec(
        "digits",
        image_size=16,
        pixels="-1..1",
        classes=4,
        train_examples=60,
        test_examples=20,
        validation_fraction=0.25,
        seed=3,
    ).open()
    assert data.image_shape == (16, 16, 3) and data.num_classes == 4
    assert (data.train_examples, len(data.x_validation), data.test_examples) == (45, 15, 20)
    assert (data.mean, data.std) == ((0.5,) * 3, (0.5,) * 3)
    assert data.has_validation


def test_digits_without_options_are_those_of_the_loader():
    assert DataSpec("digits").open().digest == load_digits().digest


@pytest.mark.parametrize(
    ("make", "prefix", "dataset"),
    [
        (lambda folder: write_tiny_imagenet(folder), "tiny-imagenet:", "tiny_imagenet"),
        (lambda folder: write_tree(folder / "photos"), "", "folder"),
    ],
)
def test_folders_in_memory(make, prefix, dataset, tmp_path):
    spec = DataSpec(f"{prefix}{make(tmp_path)}", image_cache=tmp_path / "cache")
    assert spec.dataset == dataset
    data = spec.open()
    assert isinstance(data.x_train, np.memmap) and data.image_shape == (64, 64, 3)


def test_imagenet_is_streamed(tmp_path):
    for split in ("train", "val"):
        write_tree(tmp_path / split)
    spec = DataSpec(f"imagenet:{tmp_path}", image_size=32, classes=2, validation_fraction=0.2)
    data = spec.open()
    assert isinstance(data, StreamedImages) and spec.dataset == "imagenet"
    assert (data.train_examples, len(data.validation), data.num_classes) == (8, 2, 2)
    assert DataSpec(f"imagenet:{tmp_path}").open().image_shape == (224, 224, 3)


@pytest.mark.parametrize("option", ["train_examples", "validation_fraction", "labelled_fraction"])
def test_the_seed_chooses_the_images(option):
    options = {option: 100 if option == "train_examples" else 0.2, "image_size": 8}
    first, again, other = (
        DataSpec("digits", seed=seed, **options).open().digest for seed in (3, 3, 4)
    )
    assert first == again != other


def test_validation_images_of_a_folder_are_training_images(tmp_path):
    tree = write_tree(tmp_path, images=10)
    whole = DataSpec(tree, image_size=8).open()
    held = DataSpec(tree, image_size=8, validation_fraction=0.25).open()
    np.testing.assert_array_equal(held.x_test, whole.x_test)
    assert (held.train_examples, len(held.x_validation)) == (18, 6)


@pytest.mark.parametrize("below", ["cache", "ant/cache", "."])
def test_nothing_is_written_where_images_are_searched_for(below, tmp_path):
    tree = write_tree(tmp_path / ".hidden" / "photos")
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(ValueError, match=r"`image_cache` must not be in a folder .*photos'$"):
        DataSpec(tree, image_cache=tmp_path / "link" / below)
    with pytest.raises(ValueError, match=r"`out` must not be in a folder .*photos'$"):
        DataSpec("digits", unlabelled=tree).check_is_outside(tree / below, "out")


def test_folders_where_no_images_are_searched_for(tmp_path):
    tree = write_tree(tmp_path / "photos")
    (tmp_path / "labels.csv").touch()
    DataSpec(tree, image_cache=tmp_path / "photos2")
    DataSpec(tree, image_cache=tree / ".cache")
    DataSpec(tree, image_cache=tree / "cache", labels=tmp_path / "labels.csv")
    for split in ("train", "val"):
        write_tree(tmp_path / split)
    DataSpec(tmp_path, image_cache=tmp_path / "cache")


def test_configuration_restores_the_specification(tmp_path, monkeypatch):
    write_tree(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    spec = DataSpec("photos", image_size=16, image_cache="cache", train_examples=6)
    config = json.loads(json.dumps({**spec.config(), "digest": "x", "name": "photos"}))
    assert config["source"] == str(tmp_path / "photos")
    monkeypatch.chdir("/")
    again = DataSpec.from_config(config)
    assert again.config() == spec.config() and again.image_size == 16
    assert DataSpec(f"tiny-imagenet:{tmp_path}").config()["source"] == f"tiny-imagenet:{tmp_path}"
    with pytest.raises(ValueError, match="must have the key 'source'"):
        DataSpec.from_config({})


def test_options_of_the_command_line():
    parser = Parser("x", "")
    add_data_options(parser, default="digits")
    add_seed_option(parser)
    options = parser.parse_args(["--train-examples", "100", "--seed", "3", "--pixels", "-1..1"])
    assert DataSpec.from_options(options) == DataSpec(
        "digits", train_examples=100, seed=3, pixels="-1..1"
    )
    assert DataSpec.from_options(argparse.Namespace(data="digits")) == DataSpec("digits")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digitz", "Did you mean digits"),
        ("", "`data` must not be empty"),
        ("tiny-imagenet:", "`data` must be tiny-imagenet:DIR"),
        ("imagenet", "Did you mean imagenet:DIR"),
        ("tfds:", "`data` must be tfds:NAME"),
        ("no/such/folder", "an existing folder or an .npz file. Received: data='no/such/folder'"),
    ],
)
def test_unknown_source_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        DataSpec(source)


@pytest.mark.parametrize(
    "source", ["none.npz", "imagenet:none", "tiny-imagenet:none", "imagenet:~nobody-here/x"]
)
def test_missing_folder_or_file_is_refused(source):
    with pytest.raises(FileNotFoundError, match=f"existing f.*Received: data='{source}'"):
        DataSpec(source)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("cifar100", {"image_size": 32}, "`image_size` applies only to digits, imagenet:DIR, a f"),
        ("digits", {"data_dir": "x"}, "`data_dir` applies only to cifar10, cifar100, tfds:NAME"),
        ("digits", {"skip_corrupt": True}, "`skip_corrupt` applies only to a folder"),
        ("cifar10", {"image_cache": "x"}, "`image_cache` applies only to a folder, tiny-imagenet"),
        ("digits", {"image_size": 7}, "`image_size` must be an integer from 8 to 4096"),
        ("digits", {"image_size": 100_000}, "`image_size` must be an integer from 8 to 4096"),
        ("digits", {"classes": 1}, "`classes` must be an integer of at least 2"),
        ("digits", {"train_examples": 0}, "`train_examples` must be an integer of at least 1"),
        ("digits", {"train_examples": True}, "`train_examples` must be an integer"),
        ("digits", {"test_examples": 1.5}, "`test_examples` must be an integer"),
        ("digits", {"validation_fraction": 1}, "`validation_fraction` must be .* less than 1"),
        ("digits", {"validation_fraction": float("nan")}, "`validation_fraction` must be a finite"),
        ("digits", {"seed": -1}, "`seed` must be an integer of at least 0"),
        ("digits", {"pixels": "centred"}, r"`pixels` must be one of 0\.\.255, 0\.\.1, -1\.\.1"),
    ],
)
def test_wrong_options_are_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        DataSpec(source, **options)


def test_the_home_folder_of_an_unknown_user_is_refused():
    with pytest.raises(ValueError, match=r"`data` must be .*Received: data='~nobody-here/photos'"):
        DataSpec("~nobody-here/photos")
    with pytest.raises(FileNotFoundError, match=r"`unlabelled` must be .*='~nobody-here/x'"):
        DataSpec("digits", unlabelled="~nobody-here/x")


def test_too_many_classes_or_images_are_refused():
    with pytest.raises(ValueError, match="`classes` must be between 2 and 10"):
        DataSpec("digits", classes=11).open()
    with pytest.raises(ValueError, match="`train_examples` must be between 10"):
        DataSpec("digits", train_examples=10_000).open()
    with pytest.raises(ValueError, match=r"`validation_fraction` must .*validation_fraction=0.001"):
        DataSpec("digits", validation_fraction=0.001).open()


def test_pixel_scales_by_hand():
    images = np.array([0, 51, 255], "uint8").reshape(1, 3, 1, 1)
    for name, expected in (
        ("0..255", [0, 51, 255]),
        ("0..1", [0, 0.2, 1]),
        ("-1..1", [-1, -0.6, 1]),
    ):
        mean, std = statistics_of(name, 1)
        np.testing.assert_allclose(
            normalize(images, mean, std).ravel(), expected, rtol=1e-6, atol=1e-6
        )
    with pytest.raises(ValueError, match=r"three channels. Received: images of 1 channels"):
        statistics_of("imagenet", 1)
    assert tuple(PIXELS) == NAMES


def test_numbers_of_numpy_can_be_written_as_json():
    spec = DataSpec(
        "digits",
        image_size=np.int64(16),
        train_examples=np.int32(60),
        validation_fraction=np.float32(0.25),
        seed=np.int64(3),
    )
    assert DataSpec.from_config(json.loads(json.dumps(spec.config()))) == spec


def test_cifar_has_one_meaning():
    assert DataSpec("tfds:cifar100") == DataSpec("cifar100")


def test_a_path_is_a_source(tmp_path, monkeypatch):
    write_tree(tmp_path / "a")
    assert DataSpec(Path(tmp_path / "a")) == DataSpec(str(tmp_path / "a"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DataSpec("~/a") == DataSpec(tmp_path / "a")
