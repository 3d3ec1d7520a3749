import keras
import numpy as np
import pytest
from random_students import with_kd_layers
from small_problem import SIZES, small_images, small_teacher

from letkd_keras import LetKD, fit_prototypes, quantization_aware, without_fake_quantization
from letkd_keras.functional.graph import maker, nodes
from letkd_keras.functional.insertion import kd_layers_of
from letkd_keras.layers import FakeQuantization


def _outputs(model, x):
    return np.asarray(model(x, training=False))


def _rounded(model):
    """Names of the layers whose outputs are rounded."""
    return [
        maker(node.input_tensors[0]).name
        for node in nodes(model)
        if isinstance(node.operation, FakeQuantization)
    ]


def _network():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="with_bn")(inputs)
    x = keras.layers.BatchNormalization(name="bn_with_relu")(x)
    shortcut = keras.layers.ReLU(name="relu")(x)
    x = keras.layers.MaxPooling2D(1, name="pool")(shortcut)
    x = keras.layers.Conv2D(4, 1, activation="relu", name="activated")(x)
    x = keras.layers.Add(name="sum_with_relu")([x, shortcut])
    x = keras.layers.Activation("relu", name="sum_relu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name="net")


def test_what_a_converter_merges_is_rounded_once():
    model = quantization_aware(_network())
    assert _rounded(model) == ["relu", "activated", "sum_relu", "mean"]


@pytest.mark.parametrize(
    "relu",
    [keras.ops.relu, keras.ops.relu6, keras.activations.relu, keras.layers.ReLU(6)],
    ids=["ops.relu", "ops.relu6", "activations.relu", "layer"],
)
def test_a_sum_and_its_relu_are_rounded_once_in_every_notation(relu):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, name="first")(inputs)
    x = relu(x + keras.layers.Conv2D(4, 1, name="second")(inputs))
    name = maker(x).name
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="mean")(x))
    assert _rounded(quantization_aware(model)) == ["first", "second", name]


@pytest.mark.parametrize("options", [{"negative_slope": 0.1}, {"threshold": 1.0}])
def test_what_is_before_an_activation_that_is_not_merged_is_rounded(options):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 1, name="conv")(inputs)
    x = keras.layers.ReLU(**options, name="relu")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="mean")(x))
    assert _rounded(quantization_aware(model)) == ["conv", "relu"]


def test_integers_are_not_rounded():
    inputs = keras.Input((8, 8, 3))
    integers = keras.ops.cast(keras.layers.Conv2D(4, 1, name="conv")(inputs), "int32")
    floats = keras.ops.cast(integers, "float32")
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="mean")(floats))
    assert _rounded(quantization_aware(model)) == ["conv", maker(floats).name]


def test_copies_have_the_weights_and_are_plain_students_again(student, images):
    expected = _outputs(student, images)
    exact = quantization_aware(student, weight_bits=16)
    # Without a batch for the ranges, only kernels are rounded.
    np.testing.assert_allclose(_outputs(exact, images), expected, rtol=0.01, atol=0.05)
    coarse = quantization_aware(student, weight_bits=2)
    assert np.abs(_outputs(coarse, images) - expected).max() > 0.1
    coarse(images, training=True)
    again = without_fake_quantization(coarse)
    assert [(type(layer), layer.name) for layer in again.layers] == [
        (type(layer), layer.name) for layer in student.layers
    ]
    assert without_fake_quantization(student) is student
    changed = {w.path for w in again.weights if "moving" in w.path}
    for weight, original in zip(again.weights, student.weights, strict=True):
        if weight.path not in changed:
            np.testing.assert_array_equal(weight, original)


def test_outputs_take_few_values(student, images):
    model = quantization_aware(student, bits=4)
    model(images, training=True)
    name = _rounded(model)[0]
    probe = keras.Model(model.inputs[0], model.get_layer(f"{name}_range").output)
    assert len(np.unique(_outputs(probe, images))) <= 16


def test_saved_copies_compute_the_same(student, images, tmp_path):
    model = quantization_aware(student)
    model(images, training=True)
    model.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    np.testing.assert_allclose(_outputs(loaded, images), _outputs(model, images), atol=1e-5)


def test_the_teacher_teaches_a_copy_with_its_kd_layers():
    x, y = small_images()
    teacher = small_teacher()
    prototypes = fit_prototypes(teacher, (x, y), verbose=False, **SIZES)
    trained = LetKD(teacher, small_teacher(width=4, seed=1), prototypes)
    student = quantization_aware(trained.student)
    model = LetKD(teacher, student, prototypes)
    assert list(kd_layers_of(model.student)) == list(kd_layers_of(trained.student))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    before = {w.path: np.asarray(w) for w in student.weights}
    logs = model.fit(x, y, batch_size=20, epochs=3, verbose=0).history
    assert logs["loss"][-1] < logs["loss"][0]
    changed = {w.path for w in student.weights if np.any(np.asarray(w) != before[w.path])}
    assert changed >= {w.path for w in student.trainable_weights}
    assert any("directions_range" in path for path in changed)
    plain = without_fake_quantization(model.student)
    alike = _outputs(plain, x).argmax(-1) == _outputs(model, x).argmax(-1)
    assert np.mean(alike) > 0.8


def test_a_second_copy_is_refused(student):
    with pytest.raises(ValueError, match="must be a student without fake quantization"):
        quantization_aware(quantization_aware(student))


@pytest.fixture(scope="module")
def student():
    return with_kd_layers("resnet8")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).standard_normal((6, 16, 16, 3)).astype("float32")


def test_layers_whose_kernels_stay_exact_are_named(caplog):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.SeparableConv2D(4, 3, name="separable")(x)
    quantization_aware(keras.Model(inputs, x))
    assert "kernels of these layers are not rounded: separable" in caplog.text
