import math

import keras
import numpy as np
import pytest
from keras import ops
from random_students import trained_looking

from letkd_keras.functional.graph_copy import copy_of, copy_with


def _model():
    inputs = keras.Input((4, 4, 3), name="image")
    x = keras.layers.Conv2D(2, 1, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    return trained_looking(keras.Model(inputs, keras.layers.Conv2D(1, 1, name="head")(x)))


def _x():
    return np.random.default_rng(0).standard_normal((3, 4, 4, 3)).astype("float32")


def test_copies_share_no_weight_and_compute_the_same():
    model = _model()
    copied = copy_with(model)
    assert not {id(w) for w in model.weights} & {id(w) for w in copied.weights}
    np.testing.assert_array_equal(copied(_x()), model(_x()))


def test_a_copy_of_another_dtype_and_with_other_calls():
    model = _model()

    def call(layer, call_copy, *args, **kwargs):
        if layer.name == "head":
            return keras.layers.Flatten(name="flat")(call_copy(*args))
        return args[0] if layer.name == "bn" else call_copy(*args, **kwargs)

    def copy(layer, **changes):
        return copy_of(layer, activation="relu", **changes)

    copied = copy_with(model, call, copy, dtype="float64")
    assert [layer.name for layer in copied.layers] == ["image", "conv", "head", "flat"]
    assert {copied.inputs[0].dtype, *(x.compute_dtype for x in copied.layers)} == {"float64"}
    expected = keras.ops.relu(model.get_layer("conv")(_x()))
    expected = keras.ops.relu(model.get_layer("head")(expected))
    np.testing.assert_allclose(
        np.ravel(copied(_x().astype("float64"))), np.ravel(expected), atol=1e-5
    )


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_a_quantized_layer_is_named_wherever_it_is(mode):
    inputs = keras.Input((4, 8))
    inside = keras.Sequential([keras.Input((4, 8)), keras.layers.Dense(8, name="quantized")])
    inside.layers[0].quantize(mode)
    for model in (inside, keras.Model(inputs, inside(inputs))):
        with pytest.raises(ValueError, match=f"must have float weights: .*'quantized'.* {mode}$"):
            copy_with(model)


def test_a_copy_of_another_class_may_have_weights_of_its_own():
    class Longer(keras.layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self.own = self.add_weight(name="own", shape=(), initializer="ones")

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    copied = copy_with(model, copy_fn=lambda layer: copy_of(layer, Longer))
    *both, own = copied.get_weights()
    for value, expected in zip(both, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert own == 1


@keras.saving.register_keras_serializable("letkd_keras_tests")
class TwoDense(keras.layers.Layer):
    """A composite layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = keras.layers.Dense(2), keras.layers.Dense(2)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build((*input_shape[:-1], 2))

    def call(self, inputs):
        return self.second(self.first(inputs))


def test_layers_frozen_inside_a_composite_layer_are_frozen_in_the_copy():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, TwoDense(name="two")(inputs))
    model.get_layer("two").first.trainable = False
    copy = copy_with(model).get_layer("two")
    assert (copy.first.trainable, copy.second.trainable) == (False, True)


@keras.saving.register_keras_serializable("letkd_keras_tests")
class Preprocessing(keras.layers.Layer):
    """A composite layer that normalizes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization = keras.layers.Normalization()

    def build(self, input_shape):
        self.normalization.build(input_shape)

    def call(self, inputs):
        return self.normalization(inputs)


def test_what_a_normalization_inside_a_composite_layer_adapted_to_is_copied():
    preprocessing = Preprocessing()
    preprocessing.build((None, 4, 4, 3))
    preprocessing.normalization.adapt(_x() + 5)
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, preprocessing(inputs))
    np.testing.assert_allclose(copy_with(model)(_x()), model(_x()), atol=1e-6)


class _Forgetful(keras.layers.Layer):
    """A layer whose configuration lacks an argument."""

    def __init__(self, extra=False, **kwargs):
        super().__init__(**kwargs)
        self.extra = extra

    def build(self, input_shape):
        if self.extra:
            self.offset = self.add_weight(shape=(1,), initializer="ones")

    def call(self, x):
        return x + self.offset if self.extra else x

    def get_config(self):
        return {"name": self.name}


def test_a_layer_that_loses_weights_is_refused():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, _Forgetful(extra=True, name="forgetful")(inputs))
    with pytest.raises(ValueError, match=r"'forgetful' .* all arguments .* a copy with 0 of 1"):
        copy_with(model)


class _Scale(keras.layers.Layer):
    """A layer that keeps its factor under another name."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = scale

    def call(self, x):
        return ops.cast(x, self.compute_dtype) * self.factor

    def get_config(self):
        return {"name": self.name}


class _DropPath(keras.layers.Layer):
    """A layer whose lost argument matters in training only."""

    def __init__(self, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x, training=False):
        return keras.random.dropout(x, self.rate) if training else x

    def get_config(self):
        return {"name": self.name}


class _Block(keras.layers.Layer):
    """A composite layer whose lost argument is that of a layer inside."""

    def __init__(self, strides=1, factor=1, **kwargs):
        super().__init__(**kwargs)
        self.conv = keras.layers.Conv2D(2, 3, strides=strides * factor, padding="same")

    def build(self, input_shape):
        self.conv.build(input_shape)

    def call(self, x):
        return self.conv(x)

    def get_config(self):
        return {"name": self.name, "strides": 1}


@pytest.mark.parametrize(
    "layer, received",
    [
        (_Scale(3.0, name="own"), r"a copy with factor=1\.0 in place of 3\.0"),
        (_DropPath(0.2, name="own"), r"a copy with rate=0\.0 in place of 0\.2"),
        (_Block(factor=2, name="own"), r"a copy with strides=\(1, 1\) in place of \(2, 2\)"),
    ],
)
@pytest.mark.parametrize("shape, dtype", [((8, 8, 3), "float32"), ((None, None, 3), "uint8")])
def test_a_layer_that_loses_an_argument_is_refused(layer, received, shape, dtype):
    inputs = keras.Input(shape, dtype=dtype)
    x = keras.layers.Rescaling(0.5)(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(layer(x)))
    expected = f"The layer 'own' of '{model.name}' must .*`get_config`.* Received: {received}"
    for copy_fn in (copy_of, lambda layer: copy_of(layer)):
        with pytest.raises(ValueError, match=expected):
            copy_with(model, copy_fn=copy_fn)


class _Counting(keras.layers.Layer):
    """A layer with a state that each call changes, and arguments that are kept in other forms."""

    def __init__(self, angle=90.0, step=0, missing=float("nan"), hidden=1, **kwargs):
        super().__init__(**kwargs)
        self.angle, self.missing, self.step = math.radians(angle), missing, step
        self.calls = self.add_weight(trainable=False, initializer="zeros", name="calls")

    def call(self, x):
        self.step += 1
        self.calls.assign_add(1.0)
        return x + keras.random.normal(ops.shape(x))

    def get_config(self):
        config = {**super().get_config(), "angle": math.degrees(self.angle), "missing": math.nan}
        config.pop("hidden", None)
        return {**config, "step": 0}


def test_layers_whose_arguments_are_kept_in_other_forms_are_copied_and_keep_their_state():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, _Counting(1.5)(inputs))
    model(np.zeros((2, 4)))
    before = model.get_weights()
    copied = copy_with(model)
    assert model.get_weights() == copied.get_weights() == before
    assert copied.layers[1].angle == pytest.approx(math.radians(1.5))


class _OfDtype(keras.layers.Conv2D):
    """A layer of another package whose default depends on the type."""

    def __init__(self, filters, epsilon=None, **kwargs):
        super().__init__(filters, 3, **kwargs)
        self.epsilon = epsilon or (1e-3 if self.compute_dtype == "float16" else 1e-6)

    def get_config(self):
        config = super().get_config()
        del config["kernel_size"]
        return config


def test_layers_of_half_precision_are_copied_in_float32():
    inputs = keras.Input((8, 8, 3))
    x = _OfDtype(4, dtype="mixed_float16")(inputs)
    copied = copy_with(keras.Model(inputs, 2 * x), dtype="float32")
    assert {layer.compute_dtype for layer in copied.layers} == {"float32"}
    copied = copy_with(keras.Model(inputs, x), copy_fn=lambda x: copy_of(x, padding="same"))
    assert copied.layers[-1].padding == "same"


def test_a_weight_that_is_frozen_by_itself_stays_frozen():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(inputs))
    model.get_layer("dense").kernel.trainable = False
    copied = copy_with(model)
    assert [weight.name for weight in copied.trainable_weights] == ["bias"]
