from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from small_vit import small_vit

from letkd_keras import models
from letkd_keras.functional import fingerprint
from letkd_keras.models import open_network
from letkd_keras.recipes.experiments import networks
from letkd_keras.recipes.experiments.networks import Network

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


def test_a_network_of_the_zoo_is_built_for_the_data():
    network = Network.of("resnet8")
    assert (network.title, network.file, network.image_size("student")) == ("resnet8", None, None)
    model = network.build(CIFAR, "student")
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 10))
    resolved = network.with_layers(model, "student")
    assert (resolved.layer("penultimate"), resolved.layer("intermediate")) == (
        *("penultimate", "intermediate"),
    )
    assert resolved.fingerprint is None
    assert resolved.describe(model) == "penultimate 8x8x64, intermediate 8x8x64"


def test_raw_pixels_are_scaled_inside_a_network_of_the_zoo():
    raw = SimpleNamespace(**{**vars(CIFAR), "mean": (0.0,) * 3, "std": (1 / 255,) * 3})
    model = Network.of("resnet8").build(raw, "student")
    rescaling = model.get_layer("input_scaling")
    pixels = np.array([0, 127.5, 255], dtype="float32").reshape(1, 1, 3, 1)
    np.testing.assert_allclose(np.ravel(rescaling(pixels)), [-1, 0, 1], atol=1e-6)
    assert "input_scaling" not in [
        layer.name for layer in Network.of("resnet8").build(CIFAR, "x").layers
    ]


def test_other_pixels_are_not_scaled_inside_a_network_of_the_zoo():
    """As `open_network` does, which builds it where another option is given."""
    data = SimpleNamespace(**{**vars(CIFAR), "mean": (0.0,) * 3, "std": (1.0,) * 3})
    for options in ({}, {"input_size": 32}):
        model = Network.of("resnet8", **options).build(data, "student")
        assert not any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "`teacher` must be .* built seq"),
        (
            lambda: keras.Model(
                inputs := [keras.Input((4,)), keras.Input((4,))], keras.layers.Add()(inputs)
            ),
            "`teacher` must have one input and one output. Received: 2 inputs",
        ),
        (
            lambda: keras.Sequential([keras.Input((3072,)), keras.layers.Dense(2)]),
            r"`teacher` must take images .*teacher='.*', which takes \(None, 3072\)",
        ),
        (
            lambda: keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()]),
            r"`teacher` must take images .* 8 to 4096 pixels .*which takes \(None, 4, 4, 3\)",
        ),
    ],
    ids=["not built", "two inputs", "flat", "too small"],
)
def test_a_file_whose_images_have_no_size_is_refused(model, message, saved):
    network = Network.of(saved(model()))
    with pytest.raises(ValueError, match=message):
        network.image_size("teacher")


def test_a_file_is_a_classifier_without_its_softmax(saved):
    inputs = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(4, 3, strides=4, activation="relu", name="maps")(inputs)
    backbone = keras.Model(inputs, maps)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalAveragePooling2D()(backbone(inputs))
    classifier = keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x), name="cls")
    network = Network.of(saved(classifier))
    assert (network.title, network.image_size("student")) == ("cls", 32)
    model = network.build(CIFAR, "teacher")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    probabilities = classifier.predict(images, verbose=0)
    np.testing.assert_allclose(
        keras.ops.softmax(model.predict(images, verbose=0)), probabilities, rtol=1e-5
    )
    resolved = network.with_layers(model, "teacher")
    # The layers are those of the backbone inside.
    assert resolved.penultimate_layer == "maps"
    assert resolved.fingerprint == fingerprint(model)


def test_an_image_size_that_a_file_does_not_take_is_refused(saved):
    file = saved(models.build("resnet8", num_classes=10, input_shape=(32, 32, 3)))
    expected = r"`teacher_image_size` must be a size .*Received: teacher_image_size=48"
    with pytest.raises(ValueError, match=expected):
        Network.of(file, input_size=48).open(CIFAR, "teacher")


def test_a_file_with_other_weights_is_refused(saved, tmp_path, monkeypatch):
    """`explain` opens a teacher again by the configuration of its folder."""
    saved(models.build("resnet8", num_classes=10, input_shape=(32, 32, 3)))
    monkeypatch.chdir(tmp_path)
    network = Network.of("resnet8.keras")
    resolved = network.with_layers(network.build(CIFAR, "teacher"), "teacher")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert fingerprint(resolved.build(CIFAR, "teacher")) == resolved.fingerprint
    keras.utils.set_random_seed(1)
    saved(models.build("resnet8", num_classes=10, input_shape=(32, 32, 3)))
    with pytest.raises(ValueError, match=rf"`teacher` must have .*{resolved.fingerprint}, as when"):
        resolved.build(CIFAR, "teacher")


def test_a_file_that_takes_any_size_is_built_for_the_data(saved):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="maps")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    classifier = keras.Model(inputs, keras.layers.Dense(10)(x))
    model = Network.of(saved(classifier)).build(CIFAR, "student")
    assert networks.grid(model, "maps") == (16, 16)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(model(images), classifier(images), rtol=1e-5)


def test_a_network_without_feature_maps_has_no_layers_unless_they_are_needed(saved):
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    network = Network.of(saved(model))
    model = network.build(CIFAR, "teacher")
    assert network.with_layers(model, "teacher", required=False).penultimate_layer is None
    with pytest.raises(ValueError, match="`teacher` must have a feature map"):
        network.with_layers(model, "teacher")


@pytest.mark.parametrize(
    "output",
    [
        lambda inputs: keras.layers.Conv2D(8, 1, strides=2, name="maps")(inputs),
        lambda inputs: keras.layers.Dense(7)(keras.layers.Flatten()(inputs)),
    ],
    ids=["backbone", "other classes"],
)
def test_a_network_without_the_right_classes_gets_a_head(output, saved):
    inputs = keras.Input((32, 32, 3))
    given = keras.Model(inputs, output(inputs))
    network = Network.of(saved(given))
    opened = network.open(CIFAR, "teacher")
    assert (opened.trained, opened.model.output_shape) == ("backbone", (None, 10))
    # The fingerprint does not depend on the fresh weights of the head.
    network = replace(network, trained=opened.trained)
    prints = {
        network.with_layers(network.build(CIFAR, "teacher"), "teacher", False).fingerprint
        for _ in range(2)
    }
    assert prints == {fingerprint(given)}


def test_a_teacher_has_a_size_and_a_scale_of_its_own(saved):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=2)(inputs)
    given = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    network = Network.of(saved(given), pixels="0..1")
    assert network.image_size("student") == 16
    opened = network.open(CIFAR, "teacher")
    assert (opened.trained, opened.model.input_shape) == ("everything", (None, 32, 32, 3))
    pixels = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype("float32")
    # The images of the data set have mean 0 and standard deviation 1.
    logits = opened.model((pixels - 0.5) / 0.25)
    resized = pixels.reshape(2, 16, 2, 16, 2, 3).mean((2, 4))
    np.testing.assert_allclose(logits, given(resized), rtol=1e-4, atol=1e-5)


def test_layers_have_the_same_names_when_a_network_is_built_again():
    network = Network.of("keras.applications:MobileNetV3Small", weights="none")
    keras.layers.Activation("relu")  # numbered by Keras, too
    first, second = (network.build(CIFAR, "student") for _ in range(2))
    names = [[layer.name for layer in model.layers[1:]] for model in (first, second)]
    assert names[0] == names[1] and len(set(names[0])) == len(names[0])
    resolved = [network.with_layers(model, "student") for model in (first, second)]
    assert resolved[0] == resolved[1]
    # The copy keeps the weights.
    opened = open_network(
        network.source, num_classes=10, image_size=32, data_pixels="-1..1", argument="student"
    )
    copy = networks._with_stable_names(opened.model)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(copy(images), opened.model(images), atol=1e-6)


def test_adapted_layers_normalize_as_before_under_another_name():
    keras.layers.Normalization()  # numbered by Keras, too
    layer = keras.layers.Normalization()
    layer.adapt(np.array([[1.0, 20.0], [3.0, 60.0]]))
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layer(inputs))
    copy = networks._with_stable_names(model)
    assert copy.layers[1].name == "normalization" != layer.name
    np.testing.assert_allclose(copy(np.ones((1, 2))), [[-1, -1.95]], rtol=1e-6)


def test_networks_of_keras_applications_by_name():
    network = Network.of("keras.applications:MobileNetV3Small", weights="none")
    assert (network.title, network.image_size("student")) == ("MobileNetV3Small", None)
    assert Network.of(network.source, weights="imagenet").image_size("student") == 224
    network.check("student")
    opened = network.open(CIFAR, "student")
    assert (opened.trained, opened.model.input_shape) == ("nothing", (None, 32, 32, 3))
    resolved = network.with_layers(opened.model, "student")
    assert resolved.penultimate_layer and resolved.intermediate_layer
    with pytest.raises(ValueError, match=r"Did you mean 'keras.applications:MobileNetV3Small'"):
        Network.of("keras.applications:MobileNetV3Smal").check("student")
    with pytest.raises(ValueError, match="`teacher_weights` must be 'none' for 'resnet8'"):
        Network.of("resnet8", weights="imagenet").check("teacher")
    with pytest.raises(ValueError, match="`teacher_pixels` is for networks of files and of the"):
        Network.of("keras.applications:ResNet50", pixels="0..1").check("teacher")


def test_what_does_not_fit_is_refused(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`teacher` must be a \.keras file or the name"):
        Network.of(str(tmp_path / "absent.keras")).check("teacher")
    with pytest.raises(ValueError, match=r"`student` must be a network .*Did you mean 'resnet8"):
        Network.of("resnet88").check("student")
    (tmp_path / "half.keras").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"`teacher` must be a complete \.keras file"):
        Network.of(str(tmp_path / "half.keras")).build(CIFAR, "teacher")
    path = saved(models.build("resnet8", num_classes=10, input_shape=(64, 64, 3)))
    wide = SimpleNamespace(**{**vars(CIFAR), "image_shape": (32, 48, 3)})
    with pytest.raises(ValueError, match=r"must take the images of cifar, \(32, 48, 3\)"):
        Network.of(path).build(wide, "student")
    network = Network.of("resnet8", penultimate_layer="penultimat")
    model = network.build(CIFAR, "student")
    with pytest.raises(ValueError, match=r"`student_penultimate_layer` must name a layer"):
        network.with_layers(model, "student")
    with pytest.raises(ValueError, match=r"`teacher_penultimate_layer` must name a layer"):
        network.with_layers(model, "teacher")


def test_a_layer_without_feature_map_is_refused():
    with pytest.raises(ValueError, match=r"feature map \[B, H, W, C\] or.*'fc'.*\(None, 10\)"):
        networks.grid(models.build("resnet8", 10), "fc")


def _network(size):
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="maps")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


@pytest.mark.parametrize(
    ("teacher", "student", "window"),
    # Where the grids do not divide, `LetKD` averages the finer one.
    [(8, 8, 1), (8, 4, 2), (12, 4, 3), (4, 8, 1), (7, 4, 1), (4, 7, 1)],
)
def test_the_teachers_grid_is_pooled_to_the_students(teacher, student, window):
    networks_and_layers = _network(teacher), "maps", _network(student), "maps"
    assert networks.pool_size(*networks_and_layers, "penultimate") == window


@pytest.mark.parametrize(
    ("pair", "grid", "window"),
    [
        ("resnet32x4-resnet8x4", 8, 1),
        ("wrn40_2-snv1", 4, 2),
        ("resnet32x4-snv2", 4, 2),
        ("resnet50-mnv2", 2, 2),
    ],
)
def test_grids_and_windows_of_the_papers_pairs(pair, grid, window):
    with keras.StatelessScope(initialize_variables=False):  # shapes are enough
        teacher, student = (models.build(name, num_classes=100) for name in pair.split("-"))
    for level in ("penultimate", "intermediate"):
        assert networks.grid(student, level) == (grid, grid)
        assert networks.pool_size(teacher, level, student, level, level) == window


def test_the_tokens_of_a_teacher_are_a_grid(saved):
    """A ViT of 16 patches and a class token."""
    network = Network.of(saved(small_vit(size=16, classes=10)))
    model = network.open(CIFAR, "teacher").model
    assert model.get_layer("input_resizing").output.shape == (None, 16, 16, 3)
    resolved = network.with_layers(model, "teacher")
    assert (resolved.penultimate_layer, resolved.intermediate_layer) == ("norm", "block3")
    assert resolved.describe(model) == "penultimate norm 4x4x12, intermediate block3 4x4x12"
    assert networks.grid(model, "block3") == (4, 4)
    assert networks.pool_size(model, "norm", _network(2), "maps", "penultimate") == 2
    assert networks.pool_size(model, "norm", _network(3), "maps", "penultimate") == 1
    named = replace(network, penultimate_layer="no_norm")
    with pytest.raises(ValueError, match="`teacher_penultimate_layer` must name a layer"):
        named.with_layers(model, "teacher")


def test_a_student_with_tokens_is_refused():
    message = (
        r"`student_penultimate_layer` must name a layer of the student with a feature map.*17, 12"
    )
    with pytest.raises(ValueError, match=message):
        networks.pool_size(_network(4), "maps", small_vit(size=16), "norm", "penultimate")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("ViT", "penultimate vit_encoder 4x4x16, intermediate vit_encoder/transformer_block_3 4"),
        ("DeiT", "penultimate deit_encoder 4x4x16, intermediate deit_encoder/transformer_block_3"),
        ("SwinTransformer", "penultimate norm 4x4x32, intermediate stage_2/blocks_0 4x4x32"),
    ],
)
def test_transformers_of_keras_hub(name, layers, saved, tmp_path):
    hub = pytest.importorskip("keras_hub", exc_type=ImportError)
    options = {"patch_size": 8, "num_layers": 4, "num_heads": 2, "hidden_dim": 16}
    if name == "SwinTransformer":
        options = {"patch_size": 2, "window_size": 2, "embed_dim": 8}
        options |= {"depths": (2, 2, 2), "num_heads": (1, 2, 4)}
    else:
        options["mlp_dim" if name == "ViT" else "intermediate_dim"] = 32
    backbone = getattr(hub.models, f"{name}Backbone")(image_shape=(32, 32, 3), **options)
    network = Network.of(saved(backbone))
    opened = network.open(CIFAR, "teacher")
    # A backbone gets a head.
    assert (opened.trained, opened.model.output_shape) == ("backbone", (None, 10))
    resolved = network.with_layers(opened.model, "teacher")
    assert resolved.describe(opened.model).startswith(layers)
    # It is saved as it is once its head is trained.
    opened.model.save(tmp_path / "teacher.keras")
    loaded = keras.models.load_model(tmp_path / "teacher.keras")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(loaded(images), opened.model(images), rtol=1e-4, atol=1e-5)
    assert resolved.describe(loaded).startswith(layers)
    for level in ("penultimate", "intermediate"):
        pair = opened.model, resolved.layer(level), _network(3), "maps"
        assert networks.pool_size(*pair, level) == 1
