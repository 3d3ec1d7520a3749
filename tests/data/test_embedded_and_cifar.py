import os
import socket

import numpy as np
import pytest

from letkd_keras.data import load_cifar, load_digits


def test_the_digits_are_a_fixed_split_of_all_images():
    data, again = load_digits(), load_digits()
    np.testing.assert_array_equal(data.x_train, again.x_train)
    np.testing.assert_array_equal(data.y_test, again.y_test)
    assert data.x_train.shape == (1198, 32, 32, 3)
    assert data.x_test.shape == (599, 32, 32, 3)
    assert data.x_train.dtype == np.uint8
    assert (data.num_classes, data.image_shape) == (10, (32, 32, 3))
    shares = np.bincount(data.y_train) / np.bincount(np.concatenate([data.y_train, data.y_test]))
    np.testing.assert_allclose(shares, 2 / 3, atol=0.01)
    assert not {x.tobytes() for x in data.x_train} & {x.tobytes() for x in data.x_test}
    assert not np.array_equal(data.y_train, load_digits(seed=1).y_train)
    pixels = data.x_train / 255
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)))
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)))
    with pytest.raises(ValueError, match=r"`size` must be at least 8.*size=7"):
        load_digits(size=7)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"`name` must be one of cifar100, cifar10.*'cifar'"):
        load_cifar("cifar")


def test_neither_data_nor_network_is_one_clear_sentence(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")

    def no_network(*arguments, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", no_network)
    with pytest.raises(FileNotFoundError, match=r"cifar100 is not prepared in `data_dir`.*network"):
        load_cifar("cifar100", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ],
)
def test_what_tensorflow_datasets_has_prepared(name, mean, std, tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), "uint8")

    with tfds.core.registered.skip_registration():

        class Made(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(32, 32, 3)),
                    "label": tfds.features.ClassLabel(names=["apple", "bee"]),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, manager):
                return {
                    "train": self._generate_examples(0, 6),
                    "test": self._generate_examples(6, 10),
                }

            def _generate_examples(self, start, stop):
                for number in range(start, stop):
                    yield number, {"image": images[number], "label": number % 2}

    asked = []

    def builder(name, data_dir):
        asked.append(name)
        return Made(data_dir=data_dir)

    Made(data_dir=tmp_path).download_and_prepare()
    monkeypatch.setattr(tfds, "builder", builder)
    data = load_cifar(name, tmp_path)
    assert asked == [name] and data.class_names == ("apple", "bee")
    numbers = {image.tobytes(): number for number, image in enumerate(images)}
    for x, y, expected in (
        (data.x_train, data.y_train, range(6)),
        (data.x_test, data.y_test, range(6, 10)),
    ):
        assert (x.dtype, y.dtype) == (np.uint8, np.int64)
        found = [numbers[image.tobytes()] for image in x]
        assert sorted(found) == list(expected)
        np.testing.assert_array_equal(y, np.array(found) % 2)
    # of the published recipes
    assert (data.mean, data.std) == (mean, std)


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
