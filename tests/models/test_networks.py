import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest

from letkd_keras import models
from letkd_keras.functional import suggest_layers
from letkd_keras.functional.layer_suggestions import suggest_stage_ends
from letkd_keras.models.networks import open_network


@pytest.fixture(autouse=True)
def fresh_names():
    keras.utils.clear_session()


def pixels(size=32, count=2):
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3))
    return images.astype("float32")


def opened(name, size=32, classes=5, **kwargs):
    keras.utils.set_random_seed(0)
    return open_network(name, num_classes=classes, image_size=size, **kwargs)


# === keras.applications ===

# One network for each way of preprocessing; ResNet50 (caffe) is slow to build.
MODES = {
    "VGG16": keras.applications.vgg16,
    "MobileNet": keras.applications.mobilenet,
    "MobileNetV3Small": keras.applications.mobilenet_v3,
    "DenseNet121": keras.applications.densenet,
}


@pytest.mark.parametrize(
    "name",
    [
        *("MobileNet", "MobileNetV3Small", "VGG16"),
        pytest.param("DenseNet121", marks=pytest.mark.slow),
    ],
)
def test_preprocessing_is_that_of_keras_applications(name, monkeypatch):
    # Narrow networks are enough: only what comes before the first convolution matters.
    keras.utils.set_random_seed(0)
    original = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=5, classifier_activation=None
    )
    network = opened(f"keras.applications:{name}")
    assert network.trained == "nothing"
    images = pixels()
    expected = original(MODES[name].preprocess_input(images.copy()))
    logits = network.model(images)
    assert logits.shape == (2, 5)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    # Another scale gives other logits, so that the comparison can fail.
    assert np.abs(network.model(images / 255) - expected).max() > 1e-2 * np.abs(expected).max()


def test_preprocessing_layers_are_no_stage_ends():
    model = opened("keras.applications:MobileNet", size=64).model
    assert [layer.name for layer in model.layers[:2]] == ["image", "input_scaling"]
    assert suggest_layers(model) == {
        "penultimate": "conv_pw_13_relu",
        "intermediate": "conv_pw_12_relu",
    }
    ends = suggest_stage_ends(model)
    assert "input_scaling" not in ends and ends[-1] == "conv_pw_13_relu"


def test_images_too_small_are_enlarged():
    model = opened("keras.applications:Xception", size=48).model
    assert model.input_shape == (None, 48, 48, 3)
    assert model.get_layer("input_resizing").output.shape == (None, 71, 71, 3)


def test_an_input_size_that_a_network_does_not_take_is_refused(tmp_path):
    models.build("resnet8", num_classes=5, input_shape=(32, 32, 3)).save(tmp_path / "fixed.keras")
    file = str(tmp_path / "fixed.keras")
    assert opened(file, size=40, input_size=32).model.input_shape == (None, 40, 40, 3)
    expected = r"`input_size` must be a size that `network` '.*fixed\.keras' takes.*input_size=48"
    with pytest.raises(ValueError, match=expected):
        opened(file, size=40, input_size=48)


def test_input_size_resizes_bilinearly():
    small = opened("keras.applications:MobileNet", size=40, input_size=32).model
    same = opened("keras.applications:MobileNet", size=32).model
    images = pixels(40)
    resized = keras.layers.Resizing(32, 32, interpolation="bilinear")(images)
    expected = same(resized)
    np.testing.assert_allclose(small(images), expected, rtol=1e-4)
    np.testing.assert_allclose(small(images, training=False), expected, rtol=1e-4)
    # Batch normalizations of a training step take other statistics.
    assert np.abs(small(images, training=True)).max() > 10 * np.abs(expected).max()


def test_normalized_images_are_scaled_back():
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    raw = opened("keras.applications:MobileNet").model
    normalized = opened("keras.applications:MobileNet", data_pixels=(mean, std)).model
    images = pixels()
    given = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalized(given.astype("float32")), raw(images), atol=1e-5)


def _imagenet_weights(monkeypatch, path):
    asked = []

    def get_file(name, origin, **kwargs):
        asked.append(name)
        return str(path)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    return asked


def test_imagenet_weights_with_a_new_head(tmp_path, monkeypatch):
    backbone = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    backbone.save_weights(tmp_path / "net.weights.h5")
    asked = _imagenet_weights(monkeypatch, tmp_path / "net.weights.h5")
    network = opened("keras.applications:MobileNetV2", weights="imagenet")
    assert asked == ["mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"]
    assert network.trained == "backbone"
    model = network.model
    np.testing.assert_array_equal(
        model.get_layer("Conv1").kernel, backbone.get_layer("Conv1").kernel
    )
    images = pixels()
    features = np.asarray(backbone(images / 127.5 - 1)).mean((1, 2))
    head = model.get_layer("classifier")
    expected = features @ np.asarray(head.kernel) + np.asarray(head.bias)
    np.testing.assert_allclose(model(images), expected, atol=1e-5)
    assert suggest_layers(model)["penultimate"] == "out_relu"


def test_imagenet_weights_of_all_1000_classes(tmp_path, monkeypatch):
    whole = keras.applications.MobileNetV3Small(weights=None)
    whole.save_weights(tmp_path / "net.weights.h5")
    _imagenet_weights(monkeypatch, tmp_path / "net.weights.h5")
    network = opened("keras.applications:MobileNetV3Small", classes=1000, weights="imagenet")
    assert network.trained == "everything"
    # The head takes the size that it was trained with only.
    assert network.model.get_layer("input_resizing").output.shape == (None, 224, 224, 3)
    images = pixels()
    expected = whole(keras.layers.Resizing(224, 224)(images))
    np.testing.assert_allclose(keras.ops.softmax(network.model(images)), expected, atol=1e-6)


def test_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
    from urllib.error import URLError

    def no_network(*args):
        raise URLError("no network")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", no_network)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path), raising=False)
    with pytest.raises(FileNotFoundError) as error:
        opened("keras.applications:MobileNetV2", weights="imagenet", argument="teacher")
    message = str(error.value)
    assert message.startswith("`teacher_weights` 'imagenet' of MobileNetV2 are not on this")
    assert "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5 into" in message
    assert str(tmp_path / "models") in message
    assert "\n" not in message


def test_networks_with_their_own_scale_take_no_other():
    with pytest.raises(ValueError, match=r"scales pixels itself.*pixels='0\.\.1'"):
        opened("keras.applications:MobileNet", pixels="0..1")
    with pytest.raises(ValueError, match=r"three channels\. Received: 1"):
        opened("keras.applications:MobileNet", channels=1)
    with pytest.raises(ValueError, match=r"`network_weights` must be 'none' or 'imagenet'"):
        opened("keras.applications:MobileNet", weights="jft")


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="`image_size` must be an integer of at least 1"):
        opened("resnet8", size=0)
    with pytest.raises(ValueError, match="`input_size` must be an integer of at least 1"):
        opened("resnet8", input_size=2.5)
    with pytest.raises(ValueError, match=r"`data_pixels` must be one of .*data_pixels='0\.\.2'"):
        opened("resnet8", data_pixels="0..2")
    with pytest.raises(ValueError, match=r"`data_pixels` must be one of .*data_pixels=None"):
        opened("resnet8", data_pixels=None)
    zeros = (0, 0, 0)
    for wrong in ((zeros, zeros), (0.5,), "12", ((0.5, 0.5), (1, 1)), 3, (zeros, (1, 1, np.nan))):
        with pytest.raises(ValueError, match=r"`pixels` must be .* of 3 channels\. Received: pix"):
            opened("resnet8", pixels=wrong)
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 2"):
        opened("keras.applications:MobileNet", classes=1)


def test_caffe_preprocessing_of_resnet50():
    keras.utils.set_random_seed(0)
    original = keras.applications.ResNet50(
        weights=None, input_shape=(32, 32, 3), classes=5, classifier_activation=None
    )
    images = pixels()
    expected = original(keras.applications.resnet.preprocess_input(images.copy()))
    logits = opened("keras.applications:ResNet50").model(images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


# === The zoo ===


def test_networks_of_the_zoo_scale_raw_pixels():
    keras.utils.set_random_seed(0)
    original = models.build("resnet8", num_classes=5)
    network = opened("resnet8")
    images = pixels()
    np.testing.assert_allclose(network.model(images), original(images / 127.5 - 1), atol=1e-5)
    assert network.trained == "nothing"
    assert suggest_layers(network.model)["penultimate"] == "penultimate"


def test_networks_of_the_zoo_take_normalized_images_as_they_are():
    network = opened("resnet8", data_pixels=((0.5, 0.4, 0.3), (0.2, 0.2, 0.2)))
    assert not {"input_scaling", "rescaling"} & {layer.name for layer in network.model.layers}
    one = opened("resnet8", channels=1, data_pixels=((0.3,), (0.3,)))
    assert one.model.input_shape == (None, 32, 32, 1)


def test_networks_of_the_zoo_with_a_scale_of_their_own():
    keras.utils.set_random_seed(0)
    original = models.build("resnet8", num_classes=5)
    images = pixels()
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    model = opened("resnet8", pixels=(mean, std)).model
    expected = original(((images / 255 - mean) / std).astype("float32"))
    np.testing.assert_allclose(model(images), expected, atol=1e-5)


# === Files ===


def small(classes=5, softmax=True, size=None, head=True):
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="stem")(inputs)
    x = keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="last")(x)
    if head:
        x = keras.layers.GlobalAveragePooling2D()(x)
        x = keras.layers.Dense(classes, "softmax" if softmax else None, name="classifier")(x)
    return keras.Model(inputs, x, name="small")


def test_a_file_with_the_right_classes(tmp_path):
    model = small()
    model.save(tmp_path / "net.keras")
    network = opened(str(tmp_path / "net.keras"), pixels="-1..1")
    assert network.trained == "everything"
    images = pixels()
    np.testing.assert_allclose(
        keras.ops.softmax(network.model(images)), model(images / 127.5 - 1), atol=1e-6
    )
    raw = opened(str(tmp_path / "net.keras")).model
    np.testing.assert_allclose(keras.ops.softmax(raw(images)), model(images), atol=1e-6)
    assert raw.input_shape == (None, 32, 32, 3)


def test_a_file_with_other_classes_or_none_gets_a_head(tmp_path):
    model = small(classes=7)
    model.save(tmp_path / "seven.keras")
    network = opened(str(tmp_path / "seven.keras"))
    assert network.trained == "backbone"
    assert network.model.output_shape == (None, 5)
    images = pixels()
    features = keras.Model(model.input, model.layers[-1].input)(images)
    head = network.model.layers[-1]
    expected = np.asarray(features) @ np.asarray(head.kernel)
    np.testing.assert_allclose(network.model(images), expected, atol=1e-4)
    small(head=False).save(tmp_path / "backbone.keras")
    headless = opened(str(tmp_path / "backbone.keras"))
    assert headless.trained == "backbone"
    assert suggest_layers(headless.model)["penultimate"] == "last"


def test_a_file_of_one_size_gets_resized_images(tmp_path):
    small(size=24).save(tmp_path / "net.keras")
    model = opened(str(tmp_path / "net.keras")).model
    assert model.get_layer("input_resizing").output.shape == (None, 24, 24, 3)


def test_an_opened_network_can_be_saved_and_opened_again(tmp_path):
    first = opened("keras.applications:MobileNetV3Small", size=40, input_size=32).model
    first.save(tmp_path / "net.keras")
    again = opened(str(tmp_path / "net.keras"), size=40).model
    assert [layer.name for layer in again.layers] == [layer.name for layer in first.layers]
    resized = opened(str(tmp_path / "net.keras"), size=48, data_pixels="0..1", pixels="0..255")
    names = [layer.name for layer in resized.model.layers]
    assert {"input_resizing", "input_resizing_1", "input_scaling"} <= set(names)
    images = pixels(40)
    np.testing.assert_allclose(again(images), first(images), atol=1e-6)


@pytest.mark.parametrize(
    "shapes, received",
    [((8,), r"from \(None, 8\)"), ((8, 8, 1), r"takes \(8, 8, 1\)")],
)
def test_files_of_other_images(shapes, received, tmp_path):
    inputs = keras.Input(shapes)
    outputs = keras.layers.Dense(5)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "net.keras")
    with pytest.raises(ValueError, match=f"`teacher` must .*{received}"):
        opened(str(tmp_path / "net.keras"), argument="teacher")


# === keras-hub ===


@pytest.fixture
def hub():
    return pytest.importorskip("keras_hub")


def hub_backbone(hub):
    return hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )


def hub_converter(hub):
    return hub.layers.ResNetImageConverter(
        image_size=(64, 64), scale=[1 / 50, 1 / 60, 1 / 70], offset=[-2.0, -1.0, 0.5]
    )


def test_the_preset_of_a_classifier(hub, tmp_path):
    classifier = hub.models.ResNetImageClassifier(
        backbone=hub_backbone(hub),
        num_classes=5,
        preprocessor=hub.models.ResNetImageClassifierPreprocessor(hub_converter(hub)),
    )
    classifier.save_to_preset(str(tmp_path / "mine"))
    network = opened(f"keras_hub:{tmp_path / 'mine'}")
    assert network.trained == "everything"
    images = pixels()
    scaled = images * (1 / np.array([50, 60, 70])) + np.array([-2.0, -1.0, 0.5])
    np.testing.assert_allclose(
        network.model(images), classifier(scaled.astype("float32")), atol=1e-5
    )
    other = opened(f"keras_hub:{tmp_path / 'mine'}", classes=3)
    assert (other.trained, other.model.output_shape) == ("backbone", (None, 3))
    fresh = opened(f"keras_hub:{tmp_path / 'mine'}", weights="none")
    assert fresh.trained == "nothing"
    assert np.abs(fresh.model(images) - network.model(images)).max() > 1e-3
    assert suggest_layers(network.model)["penultimate"]


def test_the_preset_of_a_backbone(hub, tmp_path):
    backbone = hub_backbone(hub)
    backbone.save_to_preset(str(tmp_path / "backbone"))
    network = opened(f"keras_hub:{tmp_path / 'backbone'}", classes=3)
    assert (network.trained, network.model.output_shape) == ("backbone", (None, 3))


def test_a_preset_that_does_not_exist(hub, tmp_path):
    with pytest.raises(ValueError, match="`teacher` must be a preset of keras-hub") as error:
        opened("keras_hub:no_such_preset", argument="teacher")
    assert "\n" not in str(error.value)


def test_a_preset_of_several_outputs_is_refused_by_the_name_of_the_argument(monkeypatch):
    """Whether keras-hub is installed or not: such presets are large."""
    inputs = keras.Input((None, None, 3))
    maps = [keras.layers.Conv2D(4, 3, strides)(inputs) for strides in (1, 2)]
    presets = SimpleNamespace(from_preset=lambda *args, **kwargs: keras.Model(inputs, maps))
    none = SimpleNamespace(from_preset=mock.Mock(side_effect=ValueError("no such preset")))
    stub = ModuleType("keras_hub")
    stub.__spec__ = ModuleSpec("keras_hub", None)
    stub.models = SimpleNamespace(ImageClassifier=none, Backbone=presets)
    stub.layers = SimpleNamespace(ImageConverter=none)
    monkeypatch.setitem(sys.modules, "keras_hub", stub)
    with pytest.raises(ValueError, match="`teacher` must have one input and one output"):
        opened("keras_hub:pyramid", argument="teacher")
