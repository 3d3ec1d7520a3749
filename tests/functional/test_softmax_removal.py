import keras
import numpy as np
import pytest
from keras import layers

from letkd_keras.functional.softmax_removal import remove_softmax

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")


def _classifier(head):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3)(inputs)
    return keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))


def _dense_softmax(x):
    return layers.Dense(5, activation="softmax", name="head")(x)


def _softmax_layer(x):
    return layers.Softmax(name="head")(layers.Dense(5)(x))


def _activation_layer(x):
    return layers.Activation("softmax", name="head")(layers.Dense(5)(x))


def _operation(x):
    return keras.ops.softmax(layers.Dense(5)(x))


def _cast_behind(x):
    return keras.ops.cast(layers.Activation("linear")(_dense_softmax(x)), "float32")


def _noise_behind(x):
    return layers.GaussianNoise(0.1)(_dense_softmax(x))


def _in_a_sequential(x):
    return keras.Sequential([layers.Dense(7), layers.Dense(5, activation="softmax")])(x)


def _in_a_model(x):
    inputs = keras.Input((6,))
    return keras.Model(inputs, _in_a_sequential(inputs))(x)


HEADS = [
    *(_dense_softmax, _softmax_layer, _activation_layer),
    *(_operation, _cast_behind, _noise_behind, _in_a_sequential, _in_a_model),
]


@pytest.mark.parametrize("head", HEADS)
def test_the_softmax_of_the_logits_is_what_the_model_gave(head):
    model = _classifier(head)
    logits = remove_softmax(model)
    values = logits.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(
        keras.ops.softmax(values), model.predict(IMAGES, verbose=0), rtol=1e-6
    )
    assert not np.allclose(values.sum(axis=-1), 1)
    assert logits.layers[1] is model.layers[1]


@pytest.mark.parametrize(
    "head",
    [layers.Dense(5), keras.Sequential([layers.Dropout(0.5), layers.Dense(5)])],
    ids=["layer", "sequential"],
)
def test_logits_are_left_alone(head):
    model = _classifier(head)
    assert remove_softmax(model) is model


def test_a_sequential_model_becomes_functional():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(6, 3), layers.Flatten()])
    logits = remove_softmax(model)
    assert [layer.name for layer in logits.layers[1:]] == [layer.name for layer in model.layers]
    np.testing.assert_array_equal(logits(IMAGES), model(IMAGES))
    model.add(layers.Dense(5, activation="softmax"))
    np.testing.assert_allclose(
        keras.ops.softmax(remove_softmax(model)(IMAGES)), model(IMAGES), rtol=1e-5
    )


def test_the_result_can_be_saved(tmp_path):
    logits = remove_softmax(_classifier(_dense_softmax))
    logits.save(tmp_path / "logits.keras")
    loaded = keras.models.load_model(tmp_path / "logits.keras")
    np.testing.assert_array_equal(
        loaded.predict(IMAGES, verbose=0), logits.predict(IMAGES, verbose=0)
    )


@pytest.mark.parametrize(
    "head",
    [
        layers.Dense(5, activation="softmax"),
        layers.EinsumDense("bc,cd->bd", 5, bias_axes="d", activation="softmax"),
    ],
    ids=["dense", "einsum"],
)
def test_the_weights_are_those_of_the_model(head, tmp_path):
    model = _classifier(head)
    logits = remove_softmax(model)
    assert list(map(id, logits.weights)) == list(map(id, model.weights))
    logits.layers[-1].set_weights([weight + 1 for weight in logits.layers[-1].get_weights()])
    for each in (logits, model):
        each.save(tmp_path / "each.keras")
        loaded = keras.models.load_model(tmp_path / "each.keras")
        np.testing.assert_array_equal(loaded(IMAGES), each(IMAGES))


def test_the_head_may_be_adapted_by_lora():
    model = _classifier(_dense_softmax)
    model.get_layer("head").enable_lora(2)
    model.get_layer("head").lora_kernel_b.assign(IMAGES[0, :2, 0:5, 0])
    logits = remove_softmax(model)
    np.testing.assert_allclose(keras.ops.softmax(logits(IMAGES)), model(IMAGES), rtol=1e-5)
    names = [[variable.path for variable in m.trainable_variables] for m in (logits, model)]
    assert sorted(names[0]) == sorted(names[1])


def test_a_frozen_last_layer_is_frozen_and_can_be_unfrozen():
    model = _classifier(_dense_softmax)
    model.get_layer("head").trainable = False
    head = remove_softmax(model).get_layer("head")
    assert (model.get_layer("head").trainable, head.trainable) == (False, False)
    assert len(head.trainable_variables) == 0
    head.trainable = True
    assert len(head.trainable_variables) == 2


def test_other_ends_are_refused():
    model = _classifier(layers.Dense(5, activation="sigmoid", name="scores"))
    with pytest.raises(ValueError, match=r"`teacher` must end in logits.*'scores'.*'sigmoid'"):
        remove_softmax(model, "teacher")
    model = _classifier(lambda x: keras.ops.sigmoid(layers.Dense(5)(x)))
    with pytest.raises(ValueError, match=r"`model` must end in logits.*'sigmoid.*'sigmoid'"):
        remove_softmax(model)


def test_the_softmax_of_a_backend_is_one():
    def softmax_v2(x):  # the name of TensorFlow's function
        return keras.ops.softmax(x)

    model = _classifier(lambda x: layers.Dense(5, activation=softmax_v2)(x))
    logits = remove_softmax(model)
    np.testing.assert_allclose(
        keras.ops.softmax(logits(IMAGES)), model(IMAGES), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("head", [_dense_softmax, _softmax_layer, _noise_behind])
def test_the_outputs_of_layers_are_those_of_the_logits_too(head):
    logits = remove_softmax(_classifier(head))
    features = logits.layers[1].output
    both = keras.Model(logits.input, [features, logits.output])
    np.testing.assert_array_equal(both(IMAGES)[1], logits(IMAGES))


@pytest.mark.parametrize(
    "head",
    [
        lambda x: layers.Activation("softmax", dtype="float32")(layers.Dense(5)(x)),
        lambda x: layers.Activation("linear", dtype="float32")(_dense_softmax(x)),
    ],
)
def test_logits_are_float32_where_the_probabilities_were(head):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = _classifier(head)
        logits = remove_softmax(model)
    finally:
        keras.config.set_dtype_policy(policy)
    assert model.outputs[0].dtype == logits.outputs[0].dtype == "float32"
    assert remove_softmax(logits) is logits


def test_a_sequential_model_of_logits_has_one_tensor_as_output():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(5)])
    assert remove_softmax(model).output.shape == (None, 5)


@pytest.mark.parametrize(
    "end",
    [
        lambda x: layers.Average()([_probabilities(x), _probabilities(x)]),
        lambda x: layers.Reshape((5,))(_probabilities(x)),
        lambda x: keras.ops.clip(_probabilities(x), 1e-6, 1),
    ],
    ids=["ensemble", "reshape", "clip"],
)
def test_probabilities_after_a_softmax_inside_are_refused(end):
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, end(layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match=r"`net` must end in logits.*outputs are probabilities"):
        remove_softmax(model, "net")


def _probabilities(x):
    return layers.Dense(5, activation="softmax")(x)


def test_an_average_of_logits_is_left_alone():
    inputs = keras.Input((4, 4, 1))
    x = layers.Flatten()(inputs)
    model = keras.Model(inputs, layers.Average()([layers.Dense(5)(x), layers.Dense(5)(x)]))
    assert remove_softmax(model) is model


def test_a_softmax_that_is_also_called_inside_stays_there():
    softmax = keras.layers.Activation("softmax")
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(5, 3)(inputs)
    x = keras.layers.Multiply()([x, softmax(x)])
    logits = keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, softmax(logits))
    images = np.random.default_rng(0).standard_normal((3, 6, 6, 3)).astype("float32")
    expected = keras.Model(inputs, logits)(images)
    np.testing.assert_allclose(remove_softmax(model)(images), expected, rtol=1e-5, atol=1e-6)
