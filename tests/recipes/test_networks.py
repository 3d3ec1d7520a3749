from types import SimpleNamespace

import keras
import numpy as np
import pytest

from letkd_keras import models
from letkd_keras.recipes import networks
from letkd_keras.recipes.networks import Network

CIFAR = SimpleNamespace(
    name="cifar", num_classes=10, image_shape=(32, 32, 3), mean=(0.5, 0.5, 0.5), std=(0.25,) * 3
)


@pytest.fixture
def saved(tmp_path):
    def save(model):
        path = tmp_path / f"{model.name}.keras"
        model.save(path)
        return str(path)

    return save


def test_a_network_of_the_zoo_is_built_for_the_data_and_names_its_taps():
    network = Network("resnet8")
    model = network.build(CIFAR, "student")
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 10))
    taps = {"penultimate": "penultimate", "intermediate": "intermediate"}
    assert network.taps(model, "student") == taps


def test_raw_pixels_are_centred_inside_a_network_of_the_zoo():
    raw = SimpleNamespace(**{**vars(CIFAR), "mean": (0.0,) * 3, "std": (1 / 255,) * 3})
    model = Network("resnet8").build(raw, "student")
    rescaling = model.get_layer("rescaling")
    pixels = np.array([0, 127.5, 255], dtype="float32").reshape(1, 1, 3, 1)
    np.testing.assert_allclose(rescaling(pixels).numpy().ravel(), [-1, 0, 1], atol=1e-6)
    assert model.get_layer("penultimate").output.shape[1:] == (8, 8, 64)


def test_a_file_keeps_its_weights_and_gives_logits(saved):
    backbone = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35
    )
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(backbone(inputs))
    classifier = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))
    network = Network(saved(classifier))
    model = network.build(CIFAR, "teacher")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    probabilities = classifier.predict(images, verbose=0)
    np.testing.assert_allclose(
        keras.ops.softmax(model.predict(images, verbose=0)), probabilities, rtol=1e-5
    )
    # The taps are layers of the backbone inside.
    assert network.taps(model, "teacher")["penultimate"] == "out_relu"


def test_a_file_that_takes_any_size_is_built_for_the_data(saved):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="maps")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    classifier = keras.Model(inputs, keras.layers.Dense(10)(x))
    model = Network(saved(classifier)).build(CIFAR, "student")
    assert networks.grid(model, "maps") == (16, 16)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(model(images), classifier(images), rtol=1e-5)


def test_what_is_no_classifier_of_images_is_refused(saved):
    inputs = keras.Input((32, 32, 3))
    for model, match in (
        (keras.Model(inputs, keras.layers.Conv2D(10, 1)(inputs)), r"to \(None, 32, 32, 10\)"),
        (keras.Sequential([keras.Input((784,)), keras.layers.Dense(10)]), r"from \(None, 784\)"),
    ):
        with pytest.raises(ValueError, match=rf"`teacher` must be a classifier of.*{match}"):
            Network(saved(model)).build(CIFAR, "teacher")


def test_a_tap_that_is_no_feature_map_is_refused():
    with pytest.raises(ValueError, match=r"feature maps \[B, H, W, C\].*'fc'.*\(None, 10\)"):
        networks.grid(models.build("resnet8", 10), "fc")


def test_what_does_not_fit_is_refused(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`teacher` must be a \.keras file"):
        Network(str(tmp_path / "absent.keras")).build(CIFAR, "teacher")
    (tmp_path / "half.keras").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"`teacher` must be a whole \.keras file"):
        Network(str(tmp_path / "half.keras")).build(CIFAR, "teacher")
    path = saved(models.build("resnet8", num_classes=7))
    with pytest.raises(ValueError, match=r"`student` must have the 10 classes of cifar.*: 7"):
        Network(path).build(CIFAR, "student")
    path = saved(models.build("resnet8", num_classes=10, input_shape=(64, 64, 3)))
    with pytest.raises(ValueError, match=r"must take the images of cifar, \(32, 32, 3\)"):
        Network(path).build(CIFAR, "student")
    inputs = keras.Input((32, 32, 3))
    path = saved(keras.Model(inputs, [keras.layers.Flatten()(inputs), inputs], name="two"))
    with pytest.raises(ValueError, match="`student` must have one input and one output"):
        Network(path).build(CIFAR, "student")
    network = Network("resnet8", penultimate="penultimat")
    with pytest.raises(ValueError, match=r"`student tap` must name a layer.*: penultimate"):
        network.taps(network.build(CIFAR, "student"), "student")


def _grid(size):
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="maps")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


@pytest.mark.parametrize(
    ("teacher", "student", "window"), [(8, 8, 1), (8, 4, 2), (12, 4, 3), (4, 8, 1)]
)
def test_the_teachers_grid_is_pooled_to_the_students(teacher, student, window):
    taps = {"penultimate": "maps"}
    windows = networks.pools(_grid(teacher), taps, _grid(student), taps, ["penultimate"])
    assert windows == {"penultimate": window}


def test_grids_that_do_not_divide_are_refused_with_their_sizes():
    taps = {"penultimate": "maps"}
    with pytest.raises(ValueError, match=r"teacher's 7x7 \('maps'\) and the student's 4x4"):
        networks.pools(_grid(7), taps, _grid(4), taps, ["penultimate"])
