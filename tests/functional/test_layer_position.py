import keras
import pytest
from keras import layers

from letkd_keras.functional.layer_position import layer_at, layer_position


class Blocks(layers.Layer):
    """Blocks of one shape, whose names Keras numbers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [layers.Dense(4), layers.Dense(4), layers.Dense(4)]

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)
        self.built = True

    def call(self, inputs):
        for block in self.blocks:
            inputs = inputs + block(inputs)
        return inputs


def _body(x, branches):
    for _ in range(3):
        first, second = layers.ReLU()(x), layers.Dense(4)(x)
        x = layers.Add()([first, second] if branches else [first, x])
    return Blocks()(x)


def _model(*, nested=False, front=False, back=False, branches=True):
    inputs = x = keras.Input((4,))
    if front:
        x = layers.Rescaling(0.5)(x)
    if nested:
        inside = keras.Input((4,))
        x = keras.Model(inside, _body(inside, branches))(x)
    else:
        x = _body(x, branches)
    if back:
        x = layers.Dropout(0.1)(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def _names(model):
    """Names of all layers between input and head, also of those inside `Blocks`, in order."""
    names = [operation.name for operation in model.operations[1:-1]]
    return names + [f"{names[-1]}/{block.name}" for block in model.layers[-2].blocks]


def test_a_model_built_again_has_its_layers_at_the_same_positions():
    first, again = _model(), _model()
    names, others = _names(first), _names(again)
    assert len(names) == 13 and not set(names) & set(others)
    positions = [layer_position(first, name) for name in names]
    assert len(set(positions)) == len(names)
    assert [layer_at(again, position) for position in positions] == others
    assert [layer_position(again, name) for name in others] == positions


@pytest.mark.parametrize("options", [{"nested": True}, {"front": True}])
def test_models_inside_and_layers_in_front_change_no_position(options):
    first, other = _model(), _model(**options)
    for name in _names(first):
        position = layer_position(first, name)
        found = layer_at(other, position)
        assert found is not None and layer_position(other, found) == position


@pytest.mark.parametrize("options", [{"back": True}, {"branches": False}])
def test_where_other_layers_follow_there_is_none(options):
    first, other = _model(), _model(**options)
    for name in _names(first)[:3]:
        assert layer_at(other, layer_position(first, name)) is None


def test_a_composite_layer_without_such_a_layer_inside_has_none():
    model = _model()
    outer = layer_position(model, model.layers[-2].name)
    assert layer_at(model, f"{outer}/Dense-2-5d41402abc4b") is None


def test_a_name_that_no_layer_has_is_refused():
    model = _model()
    for name in ("nowhere", f"{model.layers[-2].name}/nowhere"):
        with pytest.raises(ValueError, match=r"`here` must name a layer .*here='nowhere'"):
            layer_position(model, name, "here")
