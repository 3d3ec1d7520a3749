import re
from pathlib import Path

import keras
import numpy as np
import pytest
from random_students import trained_looking

import letkd_keras
from letkd_keras.functional.composite_layers import outputs_at
from letkd_keras.functional.graph import (
    TESTED_KERAS,
    as_functional,
    calls_from_output,
    find_layer,
    flatten,
    flatten_if_savable,
    is_model,
    layers_inside,
    maker,
    nodes,
    output_of,
    output_shape_of,
    output_shapes,
    readers,
    run,
)


def _nested():
    """conv -> inner (batch normalization, always in inference mode) -> head."""
    keras.utils.set_random_seed(0)
    inner_inputs = keras.Input((4, 4, 2))
    normalized = keras.layers.BatchNormalization(name="bn")(inner_inputs)
    inner = keras.Model(inner_inputs, keras.layers.ReLU(name="relu")(normalized), name="inner")
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


def test_the_calls_from_the_output_follow_first_inputs():
    inputs = keras.Input((4,), name="input")
    x = keras.layers.Dense(4, name="first")(inputs)
    x = keras.layers.Add(name="sum")([x, keras.layers.Dense(4, name="other")(inputs)])
    model = keras.Model(inputs, keras.layers.ReLU(name="relu")(x))
    names = [node.operation.name for node in calls_from_output(model)]
    assert names == ["relu", "sum", "first", "input"]


def test_a_model_stays_nested_if_a_layer_inside_cannot_be_made_again():
    class OfAProgram(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    model = _nested()
    assert "bn" in [layer.name for layer in flatten_if_savable(model).layers]
    inputs = keras.Input((4, 4, 3))
    other = keras.Model(inputs, model(OfAProgram()(inputs)))
    assert flatten_if_savable(other) is other


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


def test_a_model_inside_may_be_called_by_keyword_and_casts_what_it_takes():
    inputs = keras.Input((4,))
    dense = keras.Model(inputs, keras.layers.Dense(2, name="dense")(keras.ops.relu(inputs)))
    sequential = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    images = np.arange(8, dtype="uint8").reshape(2, 4)
    for inner in (dense, sequential):
        bytes_in = keras.Input((4,), dtype="uint8")
        model = keras.Model(bytes_in, keras.layers.Softmax()(inner(inputs=bytes_in)))
        flat = flatten(model)
        assert inner.layers[-1] in flat.layers
        np.testing.assert_allclose(flat(images), model(images), rtol=1e-6)


def test_layers_inside_a_flattened_model_cast_floats_themselves():
    inside = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, dtype="mixed_float16")(inputs)
    flat = flatten(keras.Model(inputs, inside(x)))
    assert [type(x).__name__ for x in flat.operations] == ["InputLayer", "Dense", "Dense"]


def _model_with_equal_names(operation):
    """A model that calls a model inside a model, each with a layer or operation `same`."""
    inputs, middle_inputs, inner_inputs = (keras.Input((4,)) for _ in range(3))
    inner = keras.Model(inner_inputs, operation(inner_inputs), name="inner")
    middle = keras.Model(middle_inputs, inner(middle_inputs), name="middle")
    outputs = keras.layers.Dense(2, name="same")(middle(inputs))
    return trained_looking(keras.Model(inputs, outputs))


@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize("make", ["layer", "operation"])
def test_equal_names_are_refused_and_the_advice_is_code(make, is_loaded, tmp_path):
    def operation(tensor):
        if make == "layer":
            return keras.layers.Dense(4, name="same")(tensor)
        outputs = keras.ops.relu(tensor)
        maker(outputs).name = "same"
        return outputs

    model, file = _model_with_equal_names(operation), tmp_path / "model.keras"
    if is_loaded:
        model.save(file)
        model = keras.models.load_model(file)
    with pytest.raises(ValueError, match=r"must have layers of different .* names: same$") as error:
        flatten(model)
    (advice,) = re.findall("`(.*)`", str(error.value))
    exec(advice, {"model": model})
    assert [x.name for x in flatten(model).operations][1:] == ["inner_same", "same"]
    model.save(file)
    images = np.random.default_rng(0).standard_normal((3, 4))
    flat = flatten(keras.models.load_model(file))
    np.testing.assert_allclose(flat(images), model(images), rtol=1e-6)


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


def test_a_name_means_one_call_of_one_layer():
    inputs = keras.Input((4,))
    twice = keras.layers.Dense(4, name="twice")
    model = keras.Model(inputs, keras.layers.ReLU(name="relu")(twice(twice(inputs))), name="m")
    assert find_layer(model, "relu") is model.get_layer("relu")
    with pytest.raises(ValueError, match=r"`here` must .*calls once.*'twice', called 2 times"):
        find_layer(model, "twice", argument="here")
    with pytest.raises(ValueError, match=r"`layer` must name a layer of 'm'.*'rely'.*relu"):
        find_layer(model, "rely")


def test_each_name_has_the_argument_that_it_came_by():
    with pytest.raises(ValueError, match="`two` must name a layer"):
        outputs_at(_nested(), ["conv", "nowhere"], ["one", "two"])
    with pytest.raises(ValueError, match="shorter"):
        outputs_at(_nested(), ["conv", "head"], ["one"])


def test_where_no_name_is_similar_the_last_five_are_listed():
    x = inputs = keras.Input((4,), name="l0")
    for number in range(1, 8):
        x = keras.layers.ReLU(name=f"l{number}")(x)
    with pytest.raises(ValueError, match=r"else the last ones: l3, l4, l5, l6, l7$"):
        find_layer(keras.Model(inputs, x), "something")


@pytest.mark.parametrize(
    "model",
    [keras.layers.Dense(2), "resnet8", None, keras.Sequential([keras.layers.Dense(2)])],
    ids=["layer", "name", "none", "not built"],
)
def test_what_is_no_functional_model_is_refused(model):
    with pytest.raises(ValueError, match="`net` must be a functional or a built sequential"):
        as_functional(model, "net")


@pytest.mark.parametrize(
    ("outputs", "kept", "all_outputs"),
    [
        (
            lambda features, logits: {"features": features, "logits": logits},
            '["logits"]',
            '["features"], ["logits"]',
        ),
        (
            lambda features, logits: {"Predictions": logits, "z": features},
            '["Predictions"]',
            '["Predictions"], ["z"]',
        ),
        (lambda features, logits: [features, logits], "[1]", "[0], [1]"),
        (
            lambda features, logits: {"a": logits, "b": [features, keras.ops.sum(logits, axis=1)]},
            '["b"][0]',
            '["a"], ["b"][0], ["b"][1]',
        ),
    ],
)
def test_a_model_of_several_outputs_is_refused_with_the_line_that_keeps_one(
    outputs, kept, all_outputs, tmp_path, monkeypatch
):
    inputs = keras.Input((4,))
    features = keras.layers.Dense(3)(inputs)
    model = keras.Model(inputs, outputs(features, keras.layers.Dense(2)(features)))
    with pytest.raises(ValueError, match="`net` must have one input and one output") as error:
        as_functional(model, "net")
    line = f'keras.Model(model.input, model.output{kept}).save("net.keras")'
    assert str(error.value).endswith(
        f" outputs. Keep the logits: {line}. The outputs are {all_outputs}"
    )
    monkeypatch.chdir(tmp_path)
    exec(line, {"keras": keras, "model": model})
    loaded = keras.models.load_model("net.keras")
    assert as_functional(loaded, "net").output_shape == eval(f"model.output{kept}.shape")


@pytest.mark.parametrize(
    ("outputs", "kept", "all_outputs"),
    [
        (lambda features, logits: [features, logits], 1, "[0], [1]"),
        (
            lambda features, logits: {"logits": logits, "pooled": features},
            0,
            '["logits"], ["pooled"]',
        ),
    ],
)
def test_a_sequential_model_of_several_outputs_is_refused_likewise(outputs, kept, all_outputs):
    inputs = keras.Input((4,))
    features = keras.layers.Dense(3)(inputs)
    last = keras.Model(inputs, outputs(features, keras.layers.Dense(2)(features)))
    model = keras.Sequential([keras.Input((4,)), last])
    line = f"keras.Model(model.inputs, model.outputs[{kept}])"
    with pytest.raises(ValueError) as error:
        as_functional(model, "net")
    assert str(error.value) == (
        "`net` must have one input and one output. Received: 1 inputs and 2 outputs. "
        f'Keep the logits: {line}.save("net.keras"). The outputs are {all_outputs}'
    )
    kept_model = eval(line, {"keras": keras, "model": model})
    assert as_functional(kept_model, "net").output_shape == (None, 2)


def _overriding(base):
    class Halving(base):
        def call(self, inputs, training=None):
            return super().call(inputs / 2, training=training)

    return Halving


def test_a_model_whose_class_overrides_call_is_refused_and_one_layer_inside_a_model():
    inputs = keras.Input((4,))
    halving = _overriding(keras.Model)(inputs, keras.layers.Dense(2)(inputs))
    sequential = _overriding(keras.Sequential)([inputs, keras.layers.Dense(2)])
    for model in (halving, sequential):
        with pytest.raises(ValueError, match=r"`net` must be .*, which overrides `call`"):
            as_functional(model, "net")
        assert not is_model(model)
        outer = keras.Model(inputs, keras.layers.Dense(3)(model(inputs)))
        assert flatten(outer) is outer


def test_a_class_of_its_own_that_keeps_call_is_functional():
    class Net(keras.Model):
        def __init__(self):
            inputs = keras.Input((4,))
            super().__init__(inputs, keras.layers.Dense(2)(inputs))

        def get_config(self):
            return {}

    class Layers(keras.Sequential):
        pass

    net = Net()
    assert as_functional(net) is net
    assert is_model(Layers([keras.layers.Dense(2)]))


def test_of_a_distiller_the_student_is_asked_for():
    class OfATeacher(keras.Model):
        def __init__(self, student):
            super().__init__()
            self.student = student

    with pytest.raises(ValueError, match=r"Received: net=<.*; give `net\.student`$"):
        as_functional(OfATeacher(_nested()), "net")


def test_a_sequential_model_becomes_a_functional_one_of_the_same_layers():
    dense = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((4,)), dense], name="s")
    functional = as_functional(model)
    assert functional.name == "s"
    assert functional.layers[-1] is dense
    assert as_functional(functional) is functional


def test_a_dictionary_of_one_tensor_becomes_that_tensor():
    inputs = keras.Input((4,), name="image")
    model = keras.Model({"image": inputs}, {"logits": keras.layers.Dense(2)(inputs)}, name="d")
    functional = as_functional(model)
    assert functional.name == "d"
    assert functional.layers[-1] is model.layers[-1]
    x = np.ones((3, 4), "float32")
    np.testing.assert_array_equal(functional(x), model({"image": x})["logits"])


def test_several_outputs_are_refused():
    inputs = keras.Input((4,))
    with pytest.raises(ValueError, match="1 inputs and 2 outputs"):
        as_functional(keras.Model(inputs, [inputs, keras.ops.relu(inputs)]), "net")


def test_the_first_argument_of_a_call_may_be_given_by_its_name():
    inputs, attention = keras.Input((4, 2)), keras.layers.MultiHeadAttention(1, 2)
    x = keras.layers.Dropout(0.1)(inputs=inputs)
    x = attention(query=x, value=x)
    inner = keras.Model(inputs, keras.ops.relu(x))
    outer = keras.Input((4, 2))
    model = keras.Model(outer, inner(inputs=outer), name="m")

    def call(operation, x, **kwargs):
        return operation(x, **kwargs)

    images = np.ones((3, 4, 2), "float32")
    for graph in (model, inner, flatten(model)):
        np.testing.assert_array_equal(run(graph, images, call), model(images))


class _ByName(keras.layers.Layer):
    def call(self, *, image):
        return 2 * image


def test_an_argument_may_be_given_by_its_name_alone():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, _ByName()(image=inputs))
    assert run(model, np.ones((1, 2)), lambda layer, **kwargs: layer.call(**kwargs)).sum() == 4


def test_a_graph_runs_on_other_tensors_and_operations():
    """In NumPy, with every layer doubled; the model inside is one operation."""
    model, called = _nested(), []

    def call(operation, x, training=None, **kwargs):
        called.append((operation.name, is_model(operation), training))
        return 2 * x

    x = np.ones((1, 4, 4, 3))
    np.testing.assert_array_equal(run(model, x, call), 8 * x)
    expected = [("conv", False, None), ("inner", True, False), ("head", False, None)]
    assert called == expected
    inner = model.get_layer("inner")
    np.testing.assert_array_equal(keras.tree.flatten(run(inner, x, call))[0], 4 * x)
    assert [name for name, *_ in called[3:]] == ["bn", "relu"]


def test_a_sequential_model_runs_layer_by_layer():
    model = keras.Sequential([keras.layers.ReLU(), keras.layers.Softmax()])
    assert run(model, [1], lambda layer, x: x + 1) == 3


def test_shapes_for_a_given_image_size():
    inputs = keras.Input((None, 20, 3))
    backbone = keras.Sequential([keras.layers.Conv2D(4, 3, strides=2, padding="same", name="c")])
    x = keras.layers.Conv2D(5, 3, name="d")(backbone(inputs))
    model = keras.Model(inputs, x)
    assert output_shape_of(model, "c", (10, 20, 3)) == (1, 5, 10, 4)
    assert output_shape_of(model, "d", (10, 20, 3)) == (1, 3, 8, 5)
    # What the model leaves open is 224.
    assert output_shape_of(model, "c") == (1, 112, 10, 4)
    flat = flatten(model)
    before = len(flat.get_layer("d")._inbound_nodes)
    shapes = output_shapes(flat, (10, 20, 3))
    assert [shapes[id(node.output_tensors[0])] for node in nodes(flat)] == [
        (1, 10, 20, 3),
        (1, 5, 10, 4),
        (1, 3, 8, 5),
    ]
    assert len(flat.get_layer("d")._inbound_nodes) == before


def test_the_maker_of_a_tensor_and_the_layers_inside():
    model = _nested()
    assert maker(model.outputs[0]) is model.get_layer("head")
    names = {layer.name for layer in layers_inside(model)}
    assert {"conv", "inner", "bn", "relu", "head"} <= names and "outer" not in names


# Keras' private attributes


def test_the_installed_keras_is_one_that_was_tried():
    tried = {tuple(version.split(".")[:2]) for version in TESTED_KERAS}
    assert tuple(keras.__version__.split(".")[:2]) in tried, (
        f"Keras {keras.__version__} is not in TESTED_KERAS of functional/graph.py, which uses "
        "Keras' private attributes. If all other tests pass, add the release there."
    )


def test_only_one_module_uses_private_attributes_of_keras():
    private = re.compile(
        r"\._(run_through_graph|nodes_by_depth|nodes|keras_history|flatten_layers|inbound_nodes|"
        r"outbound_nodes|call_has_training_arg|inputs_struct|outputs_struct)\b"
    )
    packages = [Path(path) for path in letkd_keras.__path__]
    root = packages[0].parent
    files = [*packages[0].rglob("*.py"), *(root / "recipes").rglob("*.py")]
    files += (root / "export").rglob("*.py")
    using = {file.name for file in files if private.search(file.read_text())}
    assert using == {"graph.py"}


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_model_inside_may_have_several_inputs(as_dictionary):
    a, b = keras.Input((6, 6, 2)), keras.Input((6, 6, 3))
    joined = keras.layers.Concatenate()([a, b])
    fuse = keras.Model({"a": a, "b": b} if as_dictionary else [a, b], joined)
    inputs = keras.Input((6, 6, 3))
    u, v = keras.layers.Conv2D(2, 1)(inputs), keras.layers.Conv2D(3, 1)(inputs)
    x = fuse({"a": u, "b": v} if as_dictionary else [u, v])
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    images = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype("float32")
    flat = flatten(model)
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    np.testing.assert_array_equal(flat(images), model(images))
