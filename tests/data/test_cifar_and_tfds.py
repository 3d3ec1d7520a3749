import os
import re
import socket
import sys

import numpy as np
import pytest

from letkd_keras.data import DataSpec, StreamedImages, load_cifar
from letkd_keras.data import tfds as tfds_module
from letkd_keras.data.tfds import _check_network

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), "uint8")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"`name` must be one of cifar100, cifar10.*'cifar'"):
        load_cifar("cifar")


@pytest.fixture
def tfds():
    return pytest.importorskip("tensorflow_datasets")


def test_neither_data_nor_network_is_one_clear_sentence(tfds, tmp_path, monkeypatch):
    def no_network(address, **kwargs):
        raise OSError(f"no network to {address}")

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr("letkd_keras.data.tfds.getproxies", dict)
    with pytest.raises(FileNotFoundError, match=r"cifar100 is not prepared in `data_dir`.*network"):
        load_cifar("cifar100", data_dir=tmp_path)
    with pytest.raises(OSError, match=r"to \('a.org', 80\)"):
        _check_network("http://a.org/b")
    _check_network("")
    monkeypatch.setattr("letkd_keras.data.tfds.getproxies", lambda: {"https": "proxy"})
    _check_network("https://a.org")


def test_an_unknown_name_is_no_missing_download(tfds, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must name a.*:mnst'\. Did you mean mnist\?"):
        DataSpec("tfds:mnst", data_dir=tmp_path).open()


@pytest.mark.parametrize("name", ["mnist[:50%]", "mnist:", "../mnist", "/", "a b"])
def test_what_is_no_name_is_refused_without_a_download(tfds, tmp_path, name, monkeypatch):
    monkeypatch.setattr(tfds, "builder", None)
    with pytest.raises(ValueError, match=r"must be tfds:NAME, .* Slices of splits are not"):
        DataSpec(f"tfds:{name}", data_dir=tmp_path).open()


@pytest.mark.parametrize("name", ["made:2.0.0", "made/large"])
def test_versions_that_are_prepared_are_named(tfds, prepare, name, monkeypatch):
    builder = tfds.builder
    folder = prepare("made")
    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(FileNotFoundError, match=r"This folder has made/1\.0\.0"):
        DataSpec(f"tfds:{name}", data_dir=folder).open()


@pytest.mark.parametrize(
    ("name", "below", "found"),
    [
        ("made", "absent", "This folder does not exist"),
        (
            "cifar10:9.9.9",
            "",
            r"'tfds:cifar10:9\.9\.9' \(Dataset cifar10 cannot .* only: [\d.]+\)$",
        ),
    ],
)
def test_what_is_not_there_is_no_missing_download(tfds, name, below, found, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"`data` must name a data set .*{found}"):
        DataSpec(f"tfds:{name}", data_dir=tmp_path / below).open()


def test_a_file_in_the_place_of_the_folder_is_refused(tfds, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^`data_dir` must be a folder"):
        load_cifar("cifar10", tmp_path / "file")


def test_without_tensorflow_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"letkd-keras\[datasets\].*python -m letkd_keras.data"):
        load_cifar("cifar10")


@pytest.fixture
def prepare(tfds, tmp_path, monkeypatch):
    """A function that prepares six training and four other images under any name."""

    def prepare(name, features=None, test="test", unlabelled=None):
        features = features or {
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=["apple", "bee"]),
        }

        with tfds.core.registered.skip_registration():

            class Made(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version("1.0.0")

                def _info(self):
                    return tfds.core.DatasetInfo(
                        builder=self, features=tfds.features.FeaturesDict(features)
                    )

                def _split_generators(self, manager):
                    return {
                        "train": self._generate_examples(0, 6),
                        test: self._generate_examples(6, 10),
                        **({unlabelled: self._generate_examples(6, 8, -1)} if unlabelled else {}),
                    }

                def _generate_examples(self, start, stop, label=None):
                    for number in range(start, stop):
                        own = number % 2 if label is None else label
                        example = {"image": IMAGES[number], "label": own}
                        yield number, {name: example.get(name, 0) for name in features}

        Made(data_dir=tmp_path).download_and_prepare()

        def builder(received, data_dir):
            assert received == name
            return Made(data_dir=data_dir)

        monkeypatch.setattr(tfds, "builder", builder)
        return tmp_path

    return prepare


def assert_same_images(data):
    numbers = {image.tobytes(): number for number, image in enumerate(IMAGES)}
    for x, y, expected in (
        (data.x_train, data.y_train, range(6)),
        (data.x_test, data.y_test, range(6, 10)),
    ):
        assert (x.dtype, y.dtype) == (np.uint8, np.int64)
        received = [numbers[image.tobytes()] for image in x]
        assert sorted(received) == list(expected)
        np.testing.assert_array_equal(y, np.array(received) % 2)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ],
)
def test_prepared_cifar(name, mean, std, prepare):
    data = load_cifar(name, prepare(name))
    assert data.class_names == ("apple", "bee")
    assert_same_images(data)
    # of the published recipes
    assert (data.mean, data.std) == (mean, std)
    assert DataSpec(name, data_dir=prepare(name)).open().digest == data.digest


def test_any_data_set_with_images_of_one_size(prepare):
    folder = prepare("made", test="validation")
    data = DataSpec("tfds:made", data_dir=folder).open()
    assert data.name == "made"
    assert_same_images(data)
    np.testing.assert_allclose(data.mean, (data.x_train / 255).mean((0, 1, 2)))
    with pytest.raises(ValueError, match=r"`image_size` does not apply .* of 32x32"):
        DataSpec("tfds:made", data_dir=folder, image_size=64).open()


def test_images_of_several_sizes_and_large_data_sets_are_streamed(tfds, prepare, monkeypatch):
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["apple", "bee"]),
    }
    data = DataSpec("tfds:made", data_dir=prepare("made", features), image_size=16).open()
    assert isinstance(data, StreamedImages) and data.image_shape == (16, 16, 3)
    assert (data.train_examples, data.test_examples) == (6, 4)
    monkeypatch.setattr(tfds_module, "_MEMORY", 1000)
    assert isinstance(DataSpec("tfds:made", data_dir=prepare("made")).open(), StreamedImages)


def _truncate(folder, split):
    """Damage the records of a split; returns their file."""
    (file,) = folder.rglob(f"*-{split}.tfrecord*")
    file.write_bytes(file.read_bytes()[:-30])
    return file


@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_records_are_refused_by_their_folder(prepare, split):
    folder = prepare("made")
    _truncate(folder, split)
    with pytest.raises(ValueError, match=r"made/1\.0\.0 is damaged \(DataLossError\)"):
        DataSpec("tfds:made", data_dir=folder).open()


def test_damaged_records_that_are_streamed_are_named(prepare, monkeypatch):
    monkeypatch.setattr(tfds_module, "_MEMORY", 1000)
    folder = prepare("made")
    data = DataSpec("tfds:made", data_dir=folder, image_size=16).open()
    data.check()
    file = _truncate(folder, "train")
    with pytest.raises(ValueError, match=f"^Files cannot be read: {re.escape(str(file))}"):
        data.check()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_files_that_are_too_small_or_missing_are_refused_before_a_pass(split, prepare, monkeypatch):
    monkeypatch.setattr(tfds_module, "_MEMORY", 1000)
    folder = prepare("made", test="validation")
    (file,) = folder.rglob(f"*-{split}.tfrecord*")
    content = file.read_bytes()
    for kept in (content[:-200], b"", None):
        file.unlink() if kept is None else file.write_bytes(kept)
        expected = rf"made/1\.0\.0 is damaged \({len(kept or b''):,} bytes of the split {split}\)"
        with pytest.raises(ValueError, match=expected):
            DataSpec("tfds:made", data_dir=folder, image_size=16).open()


def test_records_that_stop_a_pass_are_named(prepare, monkeypatch):
    monkeypatch.setattr(tfds_module, "_MEMORY", 1000)
    folder = prepare("made")
    data = DataSpec("tfds:made", data_dir=folder, image_size=16).open()
    with data.broken_files_named():
        list(data.training_batches(3, epochs=1))
    (file,) = folder.rglob("*-train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    for batches in (data.training_batches(3, epochs=1), data.evaluation_batches(3, "train")):
        expected = f"^Files cannot be read: {re.escape(str(file))}"
        with pytest.raises(ValueError, match=expected), data.broken_files_named():
            list(batches)


def test_data_sets_that_are_no_image_classification_are_refused(tfds, prepare):
    features = {"image": tfds.features.Image(shape=(32, 32, 3)), "label": np.int64}
    with pytest.raises(ValueError, match="with the features image and label"):
        DataSpec("tfds:made", data_dir=prepare("made", features)).open()


def test_data_set_without_test_images_is_refused(prepare):
    with pytest.raises(ValueError, match=r"splits train and test or validation.*train, extra"):
        DataSpec("tfds:made", data_dir=prepare("made", test="extra")).open()


def test_test_images_without_labels_are_not_used(prepare):
    folder = prepare("made", test="validation", unlabelled="test")
    assert_same_images(DataSpec("tfds:made", data_dir=folder).open())


def test_data_set_whose_test_images_have_no_labels_is_refused(prepare):
    folder = prepare("made", test="extra", unlabelled="test")
    with pytest.raises(ValueError, match=r"test or validation, with labels.*train, extra, test"):
        DataSpec("tfds:made", data_dir=folder).open()


@pytest.mark.slow
def test_cifar_100_as_prepared():
    data_dir = os.environ.get("LETKD_DATA_DIR")
    if not data_dir:
        pytest.skip("LETKD_DATA_DIR names no folder of tensorflow-datasets")
    data = load_cifar("cifar100", data_dir)
    assert data.x_train.shape == (50000, 32, 32, 3)
    assert data.x_test.shape == (10000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(data.y_train), np.full(100, 500))
    np.testing.assert_allclose(data.mean, (data.x_train / 255).mean((0, 1, 2)), atol=0.003)
    assert data.class_names[:2] == ("apple", "aquarium_fish")
