import keras
import numpy as np
import pytest
from registered_name import has_registered_name
from relative_error import relative_error

from letkd_keras import KDLayer
from letkd_keras.layers.fake_quantization import FakeQuantizedKDLayer


@pytest.fixture(scope="module")
def golden(golden_dir):
    with np.load(golden_dir / "method_kd_layer.npz") as file:
        return dict(file)


def _golden_layer(golden, data_format="channels_last", **kwargs):
    layer = KDLayer(
        templates=len(golden["template_kernel"]),
        alpha=float(golden["alpha"]),
        initial_template_scale=float(golden["template_scale"]),
        initial_value_scale=float(golden["value_scale"]),
        data_format=data_format,
        **kwargs,
    )
    channels = golden["x"].shape[-1]
    shape = (None, None, None, channels)
    layer.build(shape if data_format == "channels_last" else (None, channels, None, None))
    layer.template_kernel.assign(golden["template_kernel"].T)
    layer.value_kernel.assign(golden["value_kernel"].T)
    bn = layer.batch_normalization
    bn.gamma.assign(golden["gamma"])
    bn.beta.assign(golden["beta"])
    bn.moving_mean.assign(golden["mean"])
    bn.moving_variance.assign(golden["var"])
    return layer


def _layer(templates=6, channels=4, **kwargs):
    keras.utils.set_random_seed(0)
    layer = KDLayer(templates, **kwargs)
    layer.build((None, None, None, channels))
    return layer


def _features(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _by_hand(layer, x):
    """The formulas of the method in float64, in inference mode."""
    weight = {w.path.split("/", 1)[-1]: np.asarray(w, "float64") for w in layer.weights}
    unit = lambda v, axis: v / np.maximum(np.linalg.norm(v, axis=axis, keepdims=True), 1e-12)  # noqa: E731
    scores = (
        weight["template_scale"]
        * unit(x.astype("float64"), -1)
        @ unit(weight["template_kernel"], 0)
    )
    bn = {name.split("/")[-1]: w for name, w in weight.items() if "batch_norm" in name}
    p = (scores - bn["moving_mean"]) / np.sqrt(bn["moving_variance"] + layer.epsilon)
    p = np.maximum(p * bn["gamma"] + bn["beta"], 0)
    value = weight["value_scale"] * unit(p, -1) @ unit(weight["value_kernel"], 0)
    return x + layer.alpha * value, scores


# Golden numbers


def test_inference_is_the_authors(golden):
    layer = _golden_layer(golden)
    out, scores = layer(golden["x"], training=False, return_scores=True)
    assert relative_error(out, golden["out_eval"]) < 1e-6
    assert relative_error(scores, golden["scores"]) < 1e-6
    np.testing.assert_array_equal(layer.batch_normalization.moving_mean, golden["mean"])


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("block_size", [None, 1])
def test_training_statistics_and_every_gradient_are_the_authors(golden, data_format, block_size):
    import tensorflow as tf

    layer = _golden_layer(golden, data_format)
    to = (0, 1, 2, 3) if data_format == "channels_last" else (0, 3, 1, 2)
    back = (0, 1, 2, 3) if data_format == "channels_last" else (0, 2, 3, 1)
    x = tf.constant(golden["x"].transpose(to))
    with tf.GradientTape() as tape:
        tape.watch(x)
        if block_size is None:
            out, scores = layer(x, training=True, return_scores=True)
        else:
            out, scores = layer.call_in_blocks(x, block_size, training=True), layer.scores(x)
        cost = tf.reduce_sum(out * golden["cotangent_out"].transpose(to)) + tf.reduce_sum(
            scores * golden["cotangent_scores"].transpose(to)
        )
    bn = layer.batch_normalization
    sources = {
        "x": x,
        "template_kernel": layer.template_kernel.value,
        "template_scale": layer.template_scale.value,
        "value_kernel": layer.value_kernel.value,
        "value_scale": layer.value_scale.value,
        "gamma": bn.gamma.value,
        "beta": bn.beta.value,
    }
    assert len(layer.trainable_weights) == len(sources) - 1
    gradients = tape.gradient(cost, sources)
    actual = {f"grad_{name}": gradient.numpy() for name, gradient in gradients.items()}
    actual["grad_x"] = actual["grad_x"].transpose(back)
    for name in ("grad_template_kernel", "grad_value_kernel"):
        actual[name] = actual[name].T
    for name in ("grad_template_scale", "grad_value_scale"):
        actual[name] = actual[name].reshape(1)
    actual |= {
        "out_train": out.numpy().transpose(back),
        "scores": scores.numpy().transpose(back),
        "mean_after": bn.moving_mean.numpy(),
        "var_after": bn.moving_variance.numpy(),
    }
    errors = {name: relative_error(value, golden[name]) for name, value in actual.items()}
    # A gradient adds up what every location gives.
    bounds = {name: 1e-5 if name.startswith("grad_") else 1e-6 for name in errors}
    assert {name: e for name, e in errors.items() if not e < bounds[name]} == {}


def test_formulas_in_float64_agree():
    layer = _layer(alpha=0.7)
    layer.batch_normalization.moving_variance.assign(np.linspace(0.5, 2, 6))
    layer.batch_normalization.moving_mean.assign(np.linspace(-1, 1, 6))
    x = _features(2, 3, 5, 4)
    out, scores = layer(x, return_scores=True)
    expected_out, expected_scores = _by_hand(layer, x)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out, expected_out, rtol=1e-5, atol=1e-6)


# Properties


def test_scores_do_not_depend_on_the_length_of_features_and_templates():
    layer = _layer()
    x = _features(2, 3, 3, 4)
    scores = layer.scores(x)
    assert np.abs(scores).max() <= 3 + 1e-5
    np.testing.assert_allclose(layer.scores(100 * x), scores, rtol=1e-4, atol=1e-5)
    layer.template_kernel.assign(7 * layer.template_kernel)
    np.testing.assert_allclose(layer.scores(x), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("training", [True, False])
def test_pooling_first_is_the_same_number(golden, data_format, training):
    x = golden["x"] if data_format == "channels_last" else golden["x"].transpose(0, 3, 1, 2)
    axes = (1, 2) if data_format == "channels_last" else (2, 3)
    full = _golden_layer(golden, data_format)(x, training=training)
    pooled, scores = _golden_layer(golden, data_format)(
        x, training=training, pool_output=True, return_scores=True
    )
    assert relative_error(pooled, np.mean(full, axis=axes)) < 1e-6
    assert scores.shape == (_golden_layer(golden, data_format)._scores_shape(x.shape))


def test_with_alpha_0_the_layer_only_supervises():
    layer = _layer(alpha=0)
    x = _features(2, 3, 3, 4)
    assert [w.name for w in layer.weights] == ["template_kernel", "template_scale"]
    out, scores = layer(x, training=True, return_scores=True)
    np.testing.assert_array_equal(out, x)
    assert scores.shape == (2, 3, 3, 6)
    np.testing.assert_allclose(layer(x, pool_output=True), x.mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_the_initializer_may_be_a_function():
    def numbers(shape, dtype=None):
        return keras.ops.full(shape, 0.5, dtype=dtype)

    layer = _layer(kernel_initializer=numbers)
    for kernel in (layer.template_kernel, layer.value_kernel):
        np.testing.assert_array_equal(kernel, np.full(kernel.shape, 0.5))


def test_square_kernels_start_different_and_with_the_authors_spread():
    layer = _layer(templates=256, channels=256)
    assert not np.allclose(layer.template_kernel, layer.value_kernel)
    assert not np.allclose(layer.template_kernel, np.transpose(layer.value_kernel))
    wide = _layer(templates=2000, channels=50)
    assert np.std(wide.template_kernel) == pytest.approx(np.sqrt(2 / 50), rel=0.02)
    assert np.std(wide.value_kernel) == pytest.approx(np.sqrt(2 / 2000), rel=0.02)
    for kernel in (wide.template_kernel, wide.value_kernel):
        # 3 for a normal distribution, 1.8 for a uniform one, 2.3 for one cut off at two deviations.
        sample = np.asarray(kernel, "float64")
        assert np.mean(sample**4) / np.mean(sample**2) ** 2 == pytest.approx(3, abs=0.15)
    assert float(wide.template_scale) == 3.0
    assert float(wide.value_scale) == 1.0


@pytest.mark.parametrize(
    "policy", ["float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16"]
)
@pytest.mark.parametrize("pool", [False, True])
def test_every_policy_is_finite_even_at_vectors_of_zeros(policy, pool):
    import tensorflow as tf

    layer = _layer(dtype=policy)
    x = _features(4, 3, 3, 4)
    x[0] = 0  # no direction
    x[1] *= 1e-4  # squares below float16
    x[2] *= 1e3  # squares above float16
    inputs = tf.Variable(x)
    # Of six templates one fires where it is above its average: elsewhere all responses are 0.
    layer.batch_normalization.beta.assign([0, -10, -10, -10, -10, -10])
    with tf.GradientTape() as tape:
        out, scores = layer(
            tf.cast(inputs, layer.compute_dtype),
            training=True,
            return_scores=True,
            pool_output=pool,
        )
        cost = tf.reduce_sum(tf.cast(out, "float32")) + tf.reduce_sum(tf.cast(scores, "float32"))
    assert out.dtype == scores.dtype == layer.compute_dtype
    weights = [w.value for w in layer.trainable_weights]
    assert all(w.dtype == "float32" for w in layer.weights)
    for value in [out, scores, *tape.gradient(cost, [inputs, *weights])]:
        assert np.isfinite(np.asarray(value, "float32")).all()


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_a_pure_policy_of_half_precision_is_the_mixed_one(golden, policy):
    x = golden["x"].astype("float16")
    pure, mixed = (_golden_layer(golden, dtype=name) for name in (policy, f"mixed_{policy}"))
    options = {"training": True, "return_scores": True}
    for one, other in zip(pure(x, **options), mixed(x, **options), strict=True):
        assert one.dtype == other.dtype == policy
        np.testing.assert_array_equal(*(keras.ops.cast(v, "float32") for v in (one, other)))
    assert KDLayer.from_config(pure.get_config()).dtype_policy == mixed.dtype_policy


@pytest.mark.parametrize(("policy", "error"), [("mixed_float16", 5e-3), ("mixed_bfloat16", 4e-2)])
def test_half_precision_is_near_full_precision(golden, policy, error):
    layer = _golden_layer(golden, dtype=policy)
    out, scores = layer(golden["x"], training=True, return_scores=True)
    assert relative_error(keras.ops.cast(scores, "float32"), golden["scores"]) < error
    assert relative_error(keras.ops.cast(out, "float32"), golden["out_train"]) < error


# In blocks of images


def _call_and_gradients(block_size, x, data_format, training, pool, open_batch=False):
    """Output, gradients and running statistics in float64."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    layer = KDLayer(13, alpha=0.7, data_format=data_format, dtype="float64", name="kd")
    layer.build((None, None, None, 4) if data_format == "channels_last" else (None, 4, None, None))
    bn = layer.batch_normalization
    for weight, values in ((bn.gamma, (0.5, 2)), (bn.beta, (-1, 1.1)), (bn.moving_mean, (-1, 1))):
        weight.assign(np.linspace(*values, 13))
    x = tf.constant(x if data_format == "channels_last" else x.transpose(0, 3, 1, 2))
    weights = [weight.value for weight in layer.trainable_weights]

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            if block_size is None:
                out = layer(x, training=training, pool_output=pool)
            else:
                out = layer.call_in_blocks(x, block_size, training, pool)
            cost = tf.reduce_sum(out**3)
        return out, *tape.gradient(cost, [x, *weights], unconnected_gradients="zero")

    if open_batch:
        signature = [tf.TensorSpec((None, *x.shape[1:]), x.dtype)]
        run = tf.function(run, input_signature=signature)
    names = ("out", "x", *(w.path for w in layer.trainable_weights))
    results = dict(zip(names, run(x), strict=True))
    results |= {w.path: w.value for w in layer.non_trainable_weights}
    return {name: value.numpy() for name, value in results.items()}


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pool", [True, False])
def test_in_blocks_of_images_everything_is_the_same(data_format, training, pool):
    x = np.maximum(_features(7, 3, 5, 4).astype("float64"), -0.2)
    arguments = (x, data_format, training, pool)
    expected = _call_and_gradients(None, *arguments)
    # Blocks of 3 leave one image, and a block of 20 holds the whole batch.
    for block_size, open_batch in ((3, False), (20, False), (3, True)):
        actual = _call_and_gradients(block_size, *arguments, open_batch)
        assert actual.keys() == expected.keys()
        for name in expected:
            # The gradient of the scale is a difference of two equal numbers in training.
            absolute = 1e-12 if "scale" in name else 1e-14
            np.testing.assert_allclose(actual[name], expected[name], 1e-11, absolute, err_msg=name)


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("pool", [False, True])
def test_in_blocks_values_count_as_much(alpha, pool):
    layer, x = _layer(alpha=alpha), _features(3, 2, 2, 4)
    in_blocks = layer.call_in_blocks(x, 2, pool_output=pool)
    np.testing.assert_allclose(in_blocks, layer(x, pool_output=pool), rtol=1e-5, atol=1e-6)
    unchanged = x.mean((1, 2)) if pool else x
    assert np.allclose(in_blocks, unchanged, atol=1e-6) == (alpha == 0)


def test_in_blocks_a_frozen_layer_keeps_its_statistics():
    layer, x = _layer(), _features(3, 2, 2, 4)
    layer.trainable = False
    before = layer.get_weights()
    in_blocks = layer.call_in_blocks(x, 2, training=True)
    np.testing.assert_allclose(in_blocks, layer(x, training=False), rtol=1e-5, atol=1e-6)
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("pool", [False, True])
def test_in_blocks_half_precision_is_near_the_whole_batch(golden, policy, pool):
    options = {"training": True, "pool_output": pool}
    expected = _golden_layer(golden, dtype=policy)(golden["x"], **options)
    layer = _golden_layer(golden, dtype=policy)
    actual = layer.call_in_blocks(keras.ops.cast(golden["x"], layer.compute_dtype), 1, **options)
    assert actual.dtype == expected.dtype
    actual, expected = (keras.ops.cast(x, "float32") for x in (actual, expected))
    assert relative_error(actual, expected) < (1e-3 if policy == "mixed_float16" else 1e-2)


def test_memory_in_blocks_does_not_grow_with_the_batch():
    """The largest tensor of a compiled step is that of a block, whatever the batch."""
    import tensorflow as tf

    layer = _layer(50)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            out = layer.call_in_blocks(x, 2, True, True)
            cost = tf.reduce_sum(out)
        return tape.gradient(cost, [w.value for w in layer.trainable_weights])

    graph = step.get_concrete_function(tf.TensorSpec((12, 5, 5, 4))).graph
    graphs = [graph, *(f.graph for f in graph._functions.values() if hasattr(f, "graph"))]
    sizes = [
        tensor.shape.num_elements() or 0
        for g in graphs
        for operation in g.get_operations()
        for tensor in operation.outputs
    ]
    assert max(sizes) == 2 * 5 * 5 * 50


# What Keras asks of a layer


def test_config_round_trip():
    layer = KDLayer(
        5,
        alpha=0.25,
        initial_template_scale=2,
        initial_value_scale=4,
        momentum=0.8,
        epsilon=1e-3,
        kernel_initializer="ones",
        data_format="channels_first",
        synchronized=True,
        name="kd",
        dtype="mixed_bfloat16",
    )
    config = layer.get_config()
    again = KDLayer.from_config(config)
    assert again.get_config() == config
    assert has_registered_name(again)
    assert (again.templates, again.alpha, again.momentum, again.epsilon) == (5, 0.25, 0.8, 1e-3)
    assert (again.data_format, again.synchronized, again.name) == ("channels_first", True, "kd")
    again.build((None, 3, 4, 4))
    assert float(again.template_scale) == 2
    assert float(again.value_scale) == 4
    assert np.all(again.template_kernel == np.ones((3, 5)))
    assert (again.batch_normalization.epsilon, again.batch_normalization.momentum) == (1e-3, 0.8)


@pytest.mark.parametrize("alpha", [0, 0.5])
def test_saved_and_loaded_it_is_the_same_layer(tmp_path, alpha):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, KDLayer(5, alpha=alpha, name="kd")(inputs))
    x = _features(4, 4, 4, 3)
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert isinstance(loaded.get_layer("kd"), KDLayer)


@pytest.mark.parametrize("kind", [KDLayer, FakeQuantizedKDLayer])
def test_a_frozen_layer_stays_frozen_when_it_is_made_again(tmp_path, kind):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, kind(5, name="kd")(inputs))
    model.get_layer("kd").trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for copy in (model, loaded, keras.models.clone_model(model)):
        before = copy.get_weights()
        copy(_features(4, 4, 4, 3), training=True)
        for old, new in zip(before, copy.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        # All of the layer is trained again where it is thawed.
        copy.get_layer("kd").trainable = True
        copy(_features(4, 4, 4, 3), training=True)
        after = copy.get_weights()
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("return_scores", [False, True])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("alpha", [0, 1])
def test_symbolic_outputs_are_as_the_eager_ones(data_format, return_scores, pool, alpha):
    layer = KDLayer(5, alpha=alpha, data_format=data_format, dtype="mixed_bfloat16")
    shape = (4, 6, 3) if data_format == "channels_last" else (3, 4, 6)
    options = {"return_scores": return_scores, "pool_output": pool}
    options = {name: value for name, value in options.items() if value}  # False by default
    symbolic = layer(keras.Input(shape, batch_size=2), **options)
    eager = layer(_features(2, *shape), **options)
    computed = layer.compute_output_shape((2, *shape), **options)
    shapes = [tensor.shape for tensor in keras.tree.flatten(eager)]
    assert [tensor.shape for tensor in keras.tree.flatten(symbolic)] == shapes
    assert (list(computed) if return_scores else [computed]) == shapes
    for one, other in zip(*map(keras.tree.flatten, (symbolic, eager)), strict=True):
        assert one.dtype == keras.backend.standardize_dtype(other.dtype) == "bfloat16"


def test_the_number_of_locations_may_be_unknown():
    inputs = keras.Input((None, None, 4))
    layer = _layer()
    model = keras.Model(inputs, [layer(inputs, return_scores=True, pool_output=True)])
    pooled, scores = keras.tree.flatten(model(_features(2, 5, 7, 4)))
    assert pooled.shape == (2, 4)
    assert scores.shape == (2, 5, 7, 6)


def test_it_fits():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, KDLayer(5)(inputs))
    model.compile("sgd", "mse")
    before = {w.path: w.numpy().copy() for w in model.weights}
    history = model.fit(_features(8, 4, 4, 3), _features(8, 4, 4, 3, seed=1), epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    still = [w.name for w in model.weights if np.array_equal(before[w.path], w.numpy())]
    # BN undoes the scale of the scores: only a loss on the scores moves it.
    assert set(still) <= {"template_scale"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"templates": 0}, "`templates` must be .*templates=0"),
        ({"templates": 2.5}, "`templates` must be .*templates=2.5"),
        ({"templates": True}, "`templates` must be .*templates=True"),
        ({"alpha": "1"}, "`alpha` must be .*alpha='1'"),
        (
            {"initial_template_scale": float("nan")},
            "`initial_template_scale` must be a finite number.*nan",
        ),
        (
            {"initial_value_scale": float("inf")},
            "`initial_value_scale` must be a finite number.*inf",
        ),
        (
            {"momentum": 1.0},
            "`momentum` must be a finite number of at least 0 and less than 1.*=1.0",
        ),
        ({"epsilon": 0}, "`epsilon` must be a finite number greater than 0.*epsilon=0"),
        ({"alpha": -1}, "`alpha` must be a finite number of at least 0.*alpha=-1"),
        ({"alpha": float("nan")}, "`alpha` must be a finite number of at least 0.*alpha=nan"),
        ({"alpha": float("inf")}, "`alpha` must be .*alpha=inf"),
        ({"data_format": "NHWC"}, "`data_format` must be .*data_format='NHWC'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        KDLayer(**{"templates": 3, **arguments})


def test_bad_inputs_are_refused():
    with pytest.raises(ValueError, match=r"known number of channels.*None"):
        KDLayer(3)(keras.Input((4, 4, None)))
    with pytest.raises(ValueError, match=r"ndim=4"):
        KDLayer(3)(keras.Input((4, 3)))
    layer = _layer(channels=4)
    with pytest.raises(ValueError, match="value 4"):
        layer(_features(2, 3, 3, 5))
