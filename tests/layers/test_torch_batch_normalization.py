from types import SimpleNamespace

import keras
import numpy as np
import pytest
from registered_name import has_registered_name

from letkd_keras import TorchBatchNormalization


def _x(*shape):
    return np.random.default_rng(0).normal(2, 3, shape).astype("float32")


def test_the_running_variance_is_unbiased_by_hand():
    layer = TorchBatchNormalization()
    x = np.array([[[[1.0]], [[3.0]]], [[[5.0]], [[7.0]]]], "float32")
    y = layer(x, training=True)
    # Mean 4, squares (9 + 1 + 1 + 9): biased variance 5, unbiased 20 / 3.
    np.testing.assert_allclose(np.ravel(y), np.array([-3, -1, 1, 3]) / np.sqrt(5 + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, [0.1 * 4], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [0.9 * 1 + 0.1 * 20 / 3], rtol=1e-6)
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, [0.9 * 0.4 + 0.4], rtol=1e-6)
    expected = 0.9 * (0.9 + 2 / 3) + 2 / 3
    np.testing.assert_allclose(layer.moving_variance, [expected], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 4, 5, 2), -1), ((3, 2, 4, 5), 1), ((6, 2), -1), ((3, 4, 2), -1)]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_over_several_steps_it_is_numpys_unbiased_variance(shape, axis, compiled):
    import tensorflow as tf

    layer = TorchBatchNormalization(axis=axis, momentum=0.7)
    layer.build((None, *shape[1:]))
    call = tf.function(layer) if compiled else layer
    reduced = tuple(a for a in range(len(shape)) if a != axis % len(shape))
    mean, variance = np.zeros(2), np.ones(2)
    for step in range(3):
        x = (step + 1) * _x(*shape)
        call(x, training=True)
        mean = 0.7 * mean + 0.3 * x.mean(reduced)
        variance = 0.7 * variance + 0.3 * x.var(reduced, ddof=1)
    np.testing.assert_allclose(layer.moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 3)])
def test_one_value_a_channel_has_no_unbiased_variance_and_stays_finite(shape):
    layer = TorchBatchNormalization()
    layer(_x(*shape), training=True)
    np.testing.assert_allclose(layer.moving_variance, 0.9 * np.ones(3), rtol=1e-6)


def test_statistics_of_one_value_a_channel_keep_the_variance_finite():
    layer = TorchBatchNormalization(momentum=0.5)
    layer.build((None, 2, 2, 1))
    layer.update_statistics(np.float32([4]), np.float32([0]), 1)
    np.testing.assert_allclose(layer.moving_mean, [2])
    np.testing.assert_allclose(layer.moving_variance, [0.5])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("scale", "center"), [(False, True), (True, False), (False, False)])
def test_maps_without_scale_or_offset_by_hand(scale, center, training):
    layer = TorchBatchNormalization(scale=scale, center=center)
    x = _x(3, 4, 5, 2)
    layer.build(x.shape)
    expected = (x - x.mean((0, 1, 2))) / x.std((0, 1, 2)) if training else x
    if scale:
        layer.gamma.assign([3, 4])
        expected = expected * [3, 4]
    if center:
        layer.beta.assign([5, 6])
        expected = np.add(expected, [5, 6])
    np.testing.assert_allclose(layer(x, training=training), expected, rtol=1e-4, atol=1e-4)


def test_renormalization_is_that_of_keras():
    x, kinds = _x(3, 4, 5, 2), (TorchBatchNormalization, keras.layers.BatchNormalization)
    clipping = {"rmax": 1.5, "rmin": 0.5, "dmax": 0.5}
    options = {"momentum": 0.9, "epsilon": 1e-5, "renorm": True, "renorm_clipping": clipping}
    outputs = [kind(**options)(x, training=True) for kind in kinds]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("synchronized", [False, True])
def test_masked_values_do_not_count(synchronized):
    layer = TorchBatchNormalization(synchronized=synchronized)
    x, mask = _x(2, 3, 4), np.array([[True, True, False], [True, False, False]])
    layer(x, training=True, mask=mask)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * x[mask].mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.9 + 0.1 * x[mask].var(0, ddof=1), rtol=1e-5)


def test_inference_uses_the_running_statistics_and_keeps_them():
    layer = TorchBatchNormalization(epsilon=1e-3)
    layer.build((None, 4, 4, 2))
    layer.moving_mean.assign([1.0, 2.0])
    layer.moving_variance.assign([4.0, 9.0])
    layer.gamma.assign([2.0, 3.0])
    layer.beta.assign([0.5, -0.5])
    x = _x(3, 4, 4, 2)
    expected = (x - [1, 2]) / np.sqrt(np.array([4, 9]) + 1e-3) * [2, 3] + [0.5, -0.5]
    for training in (False, None):
        np.testing.assert_allclose(layer(x, training=training), expected, rtol=1e-5, atol=1e-6)
    layer.trainable = False
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layer.moving_mean, [1, 2])
    np.testing.assert_array_equal(layer.moving_variance, [4, 9])


def test_statistics_are_float32_under_a_mixed_policy():
    layer = TorchBatchNormalization(dtype="mixed_float16")
    x = _x(8, 4, 4, 2)
    assert layer(x, training=True).dtype == "float16"
    assert layer.moving_variance.dtype == "float32"
    expected = 0.9 + 0.1 * x.var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-3)


@pytest.mark.parametrize("kind", [keras.layers.BatchNormalization, TorchBatchNormalization])
@pytest.mark.parametrize("training", [True, False])
def test_without_autocast_the_output_has_the_type_of_the_layer(kind, training):
    layer = kind(dtype="float32", autocast=False)
    x = keras.ops.cast(_x(8, 4, 4, 2), "float16")
    symbolic = layer(keras.Input((4, 4, 2), dtype="float16"))
    outputs = layer(x, training=training)
    assert symbolic.dtype == keras.backend.standardize_dtype(outputs.dtype) == "float32"


def test_config_and_file_round_trip(tmp_path):
    layer = TorchBatchNormalization(axis=1, momentum=0.5, epsilon=0.1, center=False, name="bn")
    config = layer.get_config()
    assert TorchBatchNormalization.from_config(config).get_config() == config
    assert has_registered_name(layer)
    assert (TorchBatchNormalization().momentum, TorchBatchNormalization().epsilon) == (0.9, 1e-5)

    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, TorchBatchNormalization(name="bn")(inputs))
    x = _x(3, 4, 4, 2)
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("bn")) is TorchBatchNormalization
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("replicas", [1, 2])
def test_replicas_are_synchronized_unless_the_user_says_otherwise(monkeypatch, replicas):
    name = "letkd_keras.layers.torch_batch_normalization._replicas"
    monkeypatch.setattr(name, lambda: replicas)
    assert TorchBatchNormalization().synchronized == (replicas == 2)
    for synchronized in (True, False):
        assert TorchBatchNormalization(synchronized=synchronized).synchronized == synchronized


def test_synchronized_values_are_those_of_all_replicas(monkeypatch):
    import tensorflow as tf

    x = _x(2, 4, 5, 3)
    replicas = SimpleNamespace(num_replicas_in_sync=3)
    for context, expected in ((replicas, 3 * 40), (None, 40)):
        monkeypatch.setattr(tf.distribute, "get_replica_context", lambda c=context: c)
        assert TorchBatchNormalization(synchronized=True)._values_per_channel(x) == expected
        assert TorchBatchNormalization(synchronized=False)._values_per_channel(x) == 40


@pytest.mark.parametrize("arguments", [{"momentum": 1}, {"momentum": -0.1}, {"epsilon": 0}])
def test_bad_arguments_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be "):
        TorchBatchNormalization(**arguments)
