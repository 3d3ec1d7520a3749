import keras
import numpy as np
import pytest

from letkd_keras.functional.graph import (
    check_functional,
    copy_with,
    find_layer,
    flatten,
    grid_ratio,
    output_of,
    readers,
    spatial_shape,
)


def _nested():
    """conv -> inner (batch normalisation, always in inference mode) -> head."""
    keras.utils.set_random_seed(0)
    inner_inputs = keras.Input((4, 4, 2))
    normalised = keras.layers.BatchNormalization(name="bn")(inner_inputs)
    inner = keras.Model(inner_inputs, keras.layers.ReLU(name="relu")(normalised), name="inner")
    inputs = keras.Input((4, 4, 3))
    x = inner(keras.layers.Conv2D(2, 1, name="conv")(inputs), training=False)
    return keras.Model(inputs, keras.layers.Conv2D(1, 1, name="head")(x), name="outer")


def _x():
    return np.random.default_rng(0).standard_normal((3, 4, 4, 3)).astype("float32")


def test_flattened_it_is_the_same_function_with_the_same_layers():
    model = _nested()
    flat = flatten(model)
    assert [layer.name for layer in flat.layers][1:] == ["conv", "bn", "relu", "head"]
    assert flat.get_layer("bn") is model.get_layer("inner").get_layer("bn")
    np.testing.assert_array_equal(flat(_x()), model(_x()))
    assert flatten(flat) is flat


@pytest.mark.parametrize("training", [True, False, None])
def test_flattened_it_trains_as_before(training):
    models = [_nested(), _nested()]
    flat = flatten(models[1])
    np.testing.assert_array_equal(flat(_x(), training=training), models[0](_x(), training=training))
    expected = models[0].get_layer("inner").get_layer("bn").moving_mean
    np.testing.assert_array_equal(flat.get_layer("bn").moving_mean, expected)


@pytest.mark.parametrize("training", [True, False])
def test_sequential_models_inside_are_flattened(training):
    block = keras.Sequential([keras.layers.BatchNormalization(name="bn"), keras.layers.ReLU()])
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, name="head")(block(inputs)))
    flat = flatten(model)
    assert [layer.name for layer in flat.layers][1:] == ["bn", block.layers[1].name, "head"]
    expected = model(_x(), training=training)
    np.testing.assert_allclose(flat(_x(), training=training), expected, rtol=1e-5)
    # The statistics moved twice or not at all: the layer is the same.
    moved = np.any(block.layers[0].moving_mean.numpy() != 0)
    assert moved == training


def test_names_that_would_be_there_twice_are_refused():
    inputs = keras.Input((4,))
    inner_inputs = keras.Input((4,))
    inner = keras.Model(inner_inputs, keras.layers.Dense(4, name="dense")(inner_inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="dense")(inner(inputs)))
    with pytest.raises(ValueError, match=r"same names: dense\. Give them"):
        flatten(model)


def test_readers_are_all_that_read_and_the_model_where_it_is_output():
    inputs = keras.Input((4,))
    shared = keras.layers.ReLU(name="shared")
    left, right = keras.layers.Dense(2, name="left"), keras.layers.Dense(2, name="right")
    x = shared(inputs)
    model = keras.Model(inputs, keras.layers.Add(name="add")([left(x), right(x)]))
    assert {layer.name for layer in readers(model, shared)} == {"left", "right"}
    assert readers(model, model.get_layer("add")) == [model]
    # Another model's readers of the same layer are none of this one's.
    other = keras.Model(inputs, left(x))
    assert readers(other, shared) == [left]


def test_output_is_that_of_this_model_not_of_the_layers_first_call():
    layer = keras.layers.Dense(2)
    first = keras.Input((4,))
    keras.Model(first, layer(first))
    second = keras.Input((4,))
    model = keras.Model(second, layer(second))
    assert output_of(model, layer) is model.outputs[0]


def test_copies_share_no_weight_and_compute_the_same():
    model = flatten(_nested())
    model(_x(), training=True)
    copied = copy_with(model, lambda layer, *args, **kwargs: layer(*args, **kwargs))
    assert not {id(w) for w in model.weights} & {id(w) for w in copied.weights}
    np.testing.assert_array_equal(copied(_x()), model(_x()))


def test_a_tap_is_one_call_of_one_layer():
    inputs = keras.Input((4,))
    twice = keras.layers.Dense(4, name="twice")
    model = keras.Model(inputs, keras.layers.ReLU(name="relu")(twice(twice(inputs))), name="m")
    assert find_layer(model, "relu") is model.get_layer("relu")
    with pytest.raises(ValueError, match=r"`here` must .*calls once.*'twice', called 2 times"):
        find_layer(model, "twice", argument="here")
    with pytest.raises(ValueError, match=r"`layer` must name a layer of 'm'.*'rely'.*relu"):
        find_layer(model, "rely")


@pytest.mark.parametrize("model", [keras.layers.Dense(2), "resnet8", None])
def test_what_is_no_functional_model_is_refused(model):
    with pytest.raises(ValueError, match="`net` must be a functional"):
        check_functional(model, "net")


def test_a_sequential_model_is_refused_with_the_way_out():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="s")
    with pytest.raises(ValueError, match=r"functional.*keras\.Model\(model\.inputs"):
        check_functional(model, "net")


def test_several_outputs_are_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        check_functional(keras.Model(inputs, [inputs, keras.ops.relu(inputs)]), "net")


def test_grids():
    assert spatial_shape((None, 8, 6, 3)) == (8, 6)
    assert grid_ratio((8, 6), (4, 3)) == 2
    assert grid_ratio((8, 8), (8, 8)) == 1
    assert grid_ratio((8, 8), (4, 8)) is None
    assert grid_ratio((8, 8), (3, 3)) is None
    assert grid_ratio((4, 4), (8, 8)) is None
