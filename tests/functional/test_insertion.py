import keras
import numpy as np
import pytest

from letkd_keras import KDLayer, LetKD, fit_prototypes, insert_kd_layers, models
from letkd_keras.functional.graph import flatten, maker
from letkd_keras.functional.insertion import (
    insert_after,
    is_only_pooled,
    kd_layers_of,
    only_pooling,
)
from letkd_keras.functional.layer_suggestions import suggest_layers

SIZE = 64

BACKBONES = {
    "mobilenet_v3_small": keras.applications.MobileNetV3Small,
    "efficientnet_b0": keras.applications.EfficientNetB0,
    "resnet50_v2": keras.applications.ResNet50V2,
}


def _nested(name, classes=3):
    """A backbone of `keras.applications` as one layer under a new classifier."""
    keras.utils.set_random_seed(0)
    builder = BACKBONES[name]
    backbone = builder(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(backbone(inputs))
    return keras.Model(inputs, keras.layers.Dense(classes, name="head")(x), name="nested")


def _last_feature_map(model):
    return [layer.name for layer in flatten(model).layers if len(layer.output.shape) == 4][-1]


def _x(images=4, size=SIZE):
    return np.random.default_rng(0).uniform(0, 255, (images, size, size, 3)).astype("float32")


def _silenced(layer):
    """A KD layer whose value is there but adds nothing."""
    layer.value_scale.assign(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_nested_backbones_take_kd_layers_and_train(name):
    student = _nested(name)
    names, x, y = suggest_layers(student), _x(6), np.array([0, 1, 2, 0, 1, 2])
    kd = {"penultimate": KDLayer(7, name="kd_p"), "intermediate": KDLayer(6, name="kd_i")}
    arguments = {f"{level}_layer": name for level, name in names.items()}
    supervised = insert_kd_layers(student, **kd, **arguments)
    before = [layer.name for layer in flatten(student).layers]
    assert [n for n in _names(supervised) if n not in ("kd_p", "kd_i")] == before
    for level, layer in kd.items():
        source = maker(supervised.get_layer(layer.name).input)
        assert source.name == names[level]
    expected = student(x, training=False)
    assert not np.allclose(supervised(x, training=False), expected, rtol=1e-3)
    for layer in kd.values():
        _silenced(layer)
    np.testing.assert_allclose(supervised(x, training=False), expected, rtol=1e-4, atol=1e-5)

    prototypes = fit_prototypes(
        student, (x, y), templates=5, subclasses=2, components=2, **arguments, verbose=False
    )
    model = LetKD(student, student, prototypes, **arguments)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    trained = [model.student.trainable_weights[0], *_templates(model.student)]
    before = [np.array(weight) for weight in trained]
    teacher_weights = student.get_weights()
    logs = model.train_on_batch(x, y, return_dict=True)
    assert np.isfinite(list(logs.values())).all()
    assert {"kl_penultimate", "kl_intermediate", "task_loss"} <= logs.keys()
    assert len(trained) == 3 and all(map(_differ, trained, before))
    assert not any(map(_differ, student.get_weights(), teacher_weights))


def _names(model):
    return [layer.name for layer in model.layers]


def _templates(student):
    return [layer.trainable_weights[0] for layer in kd_layers_of(student).values()]


def _differ(a, b):
    return not np.array_equal(a, b)


def test_preprocessing_inside_a_backbone_is_kept():
    student = _nested("mobilenet_v3_small")
    last = _last_feature_map(student)
    supervised = insert_kd_layers(student, KDLayer(7, name="kd"), penultimate_layer=last)
    before, after = (
        [x for x in m.layers if isinstance(x, keras.layers.Rescaling)]
        for m in (flatten(student), supervised)
    )
    assert len(after) == len(before) == 1
    assert after[0].get_config() == before[0].get_config()


@pytest.mark.parametrize("name", ["resnet8", "wrn16_1"])
def test_with_alpha_0_the_students_output_is_unchanged_and_without_it_is_not(name):
    student = models.build(name, 10)
    x = _x(2, 32) / 255
    kd = {"penultimate": KDLayer(5, alpha=0, name="a"), "intermediate": KDLayer(6, alpha=0)}
    supervised = insert_kd_layers(student, **kd)
    np.testing.assert_allclose(supervised(x), student(x), rtol=1e-5, atol=1e-6)
    kd = {"penultimate": KDLayer(5, name="a"), "intermediate": KDLayer(6, name="b")}
    assert not np.allclose(insert_kd_layers(student, **kd)(x), student(x), rtol=1e-3)


def test_the_inserted_output_is_what_every_reader_reads():
    inputs = keras.Input((4, 4, 2))
    features = keras.layers.ReLU(name="relu")(inputs)
    left = keras.layers.Conv2D(3, 1, name="left")(features)
    right = keras.layers.Conv2D(3, 1, name="right")(features)
    model = keras.Model(inputs, keras.layers.Add()([left, right]))
    double = keras.layers.Rescaling(2.0)
    x = np.abs(_x(2, 4)[..., :2])
    np.testing.assert_allclose(insert_after(model, {"relu": [double]})(x), model(2 * x), rtol=1e-5)


def test_the_student_is_copied_with_its_weights_and_left_alone():
    student = models.build("resnet8", 10)
    count = len(student.layers)
    kd = KDLayer(5, name="kd")
    supervised = insert_kd_layers(student, kd)
    assert len(student.layers) == count
    assert kd_layers_of(supervised) == {"kd": kd}
    assert not {id(w) for w in student.weights} & {id(w) for w in supervised.weights}
    for layer in student.layers:
        for old, new in zip(layer.weights, supervised.get_layer(layer.name).weights, strict=True):
            np.testing.assert_array_equal(old.numpy(), new.numpy())


def test_what_cannot_take_a_kd_layer_is_refused():
    inputs = keras.Input((8, 8, 3))
    conv = keras.layers.Conv2D(3, 3, padding="same", name="conv")
    x = conv(conv(inputs))
    shared = keras.Model(inputs, x)
    with pytest.raises(
        ValueError, match=r"`penultimate_layer` must .*calls once.*'conv', called 2 times"
    ):
        insert_kd_layers(shared, KDLayer(5), penultimate_layer="conv")
    with pytest.raises(ValueError, match=r"`penultimate_layer` must name a layer.*'cnv'.*conv"):
        insert_kd_layers(shared, KDLayer(5), penultimate_layer="cnv")
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        insert_kd_layers(keras.Model(inputs, [x, x]), KDLayer(5), penultimate_layer="conv")
    relu = keras.layers.ReLU(name="relu")(inputs)
    unsafe = keras.Model(inputs, keras.layers.Lambda(lambda t: t, name="secret")(relu))
    with pytest.raises(ValueError, match="Lambda layer 'secret'"):
        insert_kd_layers(unsafe, KDLayer(5), penultimate_layer="relu")
    with pytest.raises(ValueError, match="`student` must be a functional"):
        insert_kd_layers(conv, KDLayer(5))
    with pytest.raises(ValueError, match=r"`insertions` must name a layer.*'cnv'"):
        insert_after(unsafe, {"cnv": []})
    with pytest.raises(ValueError, match=r"`insertions` must have a list .*'relu': <KDLayer"):
        insert_after(unsafe, {"relu": KDLayer(5)})


class _ToChannelsLast(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.transpose(inputs, (0, 2, 3, 1))


def _with_map(data_format, move=None):
    """A network of convolutions of a data format with a map of 4x6 named `map`."""
    inputs = keras.Input((2, 4, 6) if data_format == "channels_first" else (4, 6, 2))
    x = keras.layers.Conv2D(5, 3, padding="same", data_format=data_format, name="conv")(inputs)
    if move is not None:
        x = move(x)
    x = keras.layers.ReLU(name="map")(x)
    return keras.Model(inputs, keras.layers.Flatten()(x))


@pytest.mark.parametrize(
    ("data_format", "other"),
    [("channels_last", "channels_first"), ("channels_first", "channels_last")],
)
def test_a_kd_layer_has_the_data_format_of_the_layers_before_it(data_format, other):
    network = _with_map(data_format)
    kd_layer = KDLayer(3, data_format=data_format, name="kd")
    student = insert_kd_layers(network, kd_layer, penultimate_layer="map")
    # The channels are those of the convolution.
    assert tuple(student.get_layer("kd").template_kernel.shape) == (5, 3)
    expected = (
        rf"`penultimate` must have the data format .*: KDLayer\(3, data_format='{data_format}'\)\. "
        f"Received: penultimate with data_format='{other}' after 'map'"
    )
    with pytest.raises(ValueError, match=expected):
        insert_kd_layers(network, KDLayer(3, data_format=other), penultimate_layer="map")


@pytest.mark.parametrize(
    "move",
    [
        keras.layers.Permute((2, 3, 1)),
        keras.Sequential([keras.Input((5, 4, 6)), keras.layers.Permute((2, 3, 1))]),
        lambda x: keras.ops.transpose(x, (0, 2, 3, 1)),
        lambda x: keras.ops.moveaxis(x, 1, -1),
        _ToChannelsLast(),
    ],
    ids=["Permute", "model", "transpose", "moveaxis", "own layer"],
)
def test_a_permutation_before_a_kd_layer_may_change_the_data_format(move):
    network = _with_map("channels_first", move)
    student = insert_kd_layers(network, KDLayer(3, name="kd"), penultimate_layer="map")
    assert tuple(student.get_layer("kd").template_kernel.shape) == (5, 3)


def test_without_names_the_layers_are_the_suggested_ones():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    x = keras.layers.Conv2D(4, 3, strides=2, name="last")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    student = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
    supervised = insert_kd_layers(student, KDLayer(5, name="kd"))
    assert maker(supervised.get_layer("kd").input).name == suggest_layers(student)["penultimate"]
    # Its outputs are still probabilities.
    np.testing.assert_allclose(np.sum(supervised(_x(2, 8)), axis=-1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match=r"`intermediate_layer` must name .*none can be suggested"):
        insert_kd_layers(student, intermediate=KDLayer(5))


def test_after_one_layer_the_intermediate_kd_layer_comes_first():
    student = models.build("resnet8", num_classes=3)
    supervised = insert_kd_layers(
        student,
        KDLayer(5, name="kd_p"),
        KDLayer(6, name="kd_i"),
        penultimate_layer="penultimate",
        intermediate_layer="penultimate",
    )
    assert list(kd_layers_of(supervised)) == ["kd_i", "kd_p"]


def test_a_copy_normalizes_its_images_as_the_student_does():
    """Keras derives what an adapted layer computes with, and does not when weights are assigned."""
    images = 120 + 50 * _x(size=8) / 255
    normalization = keras.layers.Normalization()
    normalization.adapt(images)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="penultimate")(normalization(inputs))
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x))
    student = keras.Model(inputs, outputs)
    expected = student.predict(images, verbose=0)
    for copy in (
        insert_after(student, {}),
        insert_kd_layers(student, _silenced_layer()),
    ):
        np.testing.assert_allclose(copy.predict(images, verbose=0), expected, rtol=1e-4, atol=1e-5)


def _silenced_layer():
    layer = KDLayer(5, name="kd_penultimate")
    layer.build((None, 6, 6, 4))
    return _silenced(layer) or layer


def test_a_pooling_that_is_called_twice_also_reads_other_maps():
    inputs = keras.Input((8, 8, 3))
    kd = KDLayer(5, name="kd_penultimate")
    first = keras.layers.Conv2D(4, 3)(inputs)
    last = kd(keras.layers.Conv2D(4, 3)(first))
    pool = keras.layers.GlobalAveragePooling2D()
    once = keras.Model(inputs, keras.layers.Dense(3)(pool(last)))
    assert is_only_pooled(once, kd)
    both = keras.layers.Concatenate()([pool(first), pool(last)])
    assert not is_only_pooled(keras.Model(inputs, keras.layers.Dense(3)(both)), kd)


def test_a_pooling_over_other_axes_is_not_that_of_the_locations():
    inputs, kd = keras.Input((8, 8, 3)), KDLayer(5, name="kd_penultimate")
    for data_format, is_pooling in (("channels_last", True), ("channels_first", False)):
        pool = keras.layers.GlobalAveragePooling2D(data_format=data_format)
        model = keras.Model(inputs, keras.layers.Dense(3)(pool(kd(inputs))))
        assert (only_pooling(model, kd) is pool) == is_pooling
        assert is_only_pooled(model, kd) == is_pooling
