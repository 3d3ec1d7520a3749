import copy
import pickle

import keras
import numpy as np
import pytest
from registered_name import has_registered_name
from relative_error import relative_error
from scipy.special import softmax, xlogy
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from letkd_keras import IntermediateTargets, PenultimateTargets, TemplateKLDivergence
from letkd_keras.prototypes import IntermediatePrototypes, PenultimatePrototypes


def _penultimate(centers, pool_size=1, **kwargs):
    prototypes = PenultimatePrototypes("layer", (4, 4), pool_size, np.asarray(centers, "float32"))
    return PenultimateTargets.from_prototypes(prototypes, **kwargs)


def _intermediate(golden, pool_size=1, **kwargs):
    prototypes = IntermediatePrototypes(
        "layer",
        (4, 4),
        pool_size,
        lda_mean=golden["lda_mean"],
        lda_scalings=golden["lda_scalings"][:, : golden["centers"].shape[1]],
        centers=golden["centers"],
        subclass_scores=golden["subclass_scores"],
        num_classes=int(golden["num_classes"]),
        subclasses=int(golden["subclasses_per_class"]),
    )
    return IntermediateTargets.from_prototypes(prototypes, **kwargs)


def _golden(golden_dir, name):
    with np.load(golden_dir / f"method_{name}.npz") as file:
        return dict(file)


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


# Golden numbers


def test_penultimate_targets_divergence_and_gradient_are_the_authors(golden_dir):
    import tensorflow as tf

    golden = _golden(golden_dir, "penultimate_target")
    layer = _penultimate(golden["centers"])
    targets, negentropy = layer(golden["teacher_features"], return_negentropy=True)
    assert relative_error(targets, golden["targets"]) < 1e-5
    scores = tf.constant(golden["student_scores"])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        kl = TemplateKLDivergence()((targets, negentropy), scores)
    assert float(kl) == pytest.approx(float(golden["kl"]), rel=1e-6)
    assert relative_error(tape.gradient(kl, scores), golden["grad_scores"]) < 1e-5


@pytest.mark.parametrize(("name", "pool"), [("", 1), ("_downscale", 2)])
def test_intermediate_targets_and_divergence_are_the_authors(golden_dir, name, pool):
    golden = _golden(golden_dir, f"subclass_target{name}")
    layer = _intermediate(golden, pool)
    targets = layer(golden["teacher_features"], golden["labels"], return_negentropy=True)
    np.testing.assert_array_equal(targets[0], golden["targets"])  # rows of a table
    kl = TemplateKLDivergence()(targets, golden["student_scores"])
    assert float(kl) == pytest.approx(float(golden["kl"]), rel=1e-6)


# Numbers by hand and in float64


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_penultimate_targets_are_the_softmax_of_negative_squared_distances(temperature):
    features, centers = _random(2, 3, 4, 5), _random(7, 5, seed=1)
    layer = _penultimate(centers, temperature=temperature)
    distances = ((features[..., None, :] - centers.astype("float64")) ** 2).sum(-1)
    expected = softmax(-temperature * distances, axis=-1)
    targets, negentropy = layer(features, return_negentropy=True)
    np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(negentropy, xlogy(expected, expected).sum(-1), rtol=1e-4, atol=1e-5)


def test_targets_far_from_all_centers_are_finite_and_sum_to_1():
    layer = _penultimate(_random(7, 5))
    targets, negentropy = layer(1e3 * _random(2, 3, 3, 5), return_negentropy=True)
    np.testing.assert_allclose(np.sum(targets, axis=-1), 1, rtol=1e-5)
    assert np.isfinite(negentropy).all()
    assert np.max(negentropy) <= 1e-2


def _two_classes():
    """Two classes of two sub-classes on a line, the LDA a shift by 1 and a factor 2."""
    return {
        "lda_mean": np.array([1.0]),
        "lda_scalings": np.array([[2.0]]),
        "centers": np.array([[-3.0], [0.0], [1.0], [4.0]]),
        "subclass_scores": np.array(
            [[0.7, 0.3, 0, 0], [0.2, 0.5, 0.3, 0], [0, 0.4, 0.6, 0], [0, 0, 0.1, 0.9]]
        ),
        "num_classes": 2,
        "subclasses_per_class": 2,
    }


def test_the_row_is_that_of_the_nearest_subclass_of_the_true_class():
    layer = _intermediate(_two_classes())
    # z = (f - 1) * 2: -4, 0.6 (nearest of all is 1, of class 0 it is 0), 1 and 10.
    features = np.array([[[-1.0], [1.3]], [[1.5], [6.0]]], "float32")[None]
    rows = _two_classes()["subclass_scores"]
    targets = layer(np.repeat(features, 2, axis=0), np.array([0, 1]))
    np.testing.assert_allclose(targets[0], [[rows[0], rows[1]], [rows[1], rows[1]]], rtol=1e-6)
    np.testing.assert_allclose(targets[1], [[rows[2], rows[2]], [rows[2], rows[3]]], rtol=1e-6)
    np.testing.assert_allclose(np.ravel(layer.project(features)), [-4, 0.6, 1, 10], rtol=1e-5)
    _, negentropy = layer(features, np.array([0]), return_negentropy=True)
    expected = [np.log([0.7, 0.3]) @ [0.7, 0.3], np.log([0.2, 0.5, 0.3]) @ [0.2, 0.5, 0.3]]
    np.testing.assert_allclose(np.ravel(negentropy)[:2], expected, rtol=1e-5)


def test_a_grid_of_unknown_size_stays_unknown():
    targets = _penultimate(_random(4, 1), pool_size=2)(keras.Input((None, None, 1)))
    assert targets.shape == (None, None, None, 4)


def test_labels_of_another_shape_are_refused():
    layer = _intermediate(_two_classes())
    for labels in (np.ones((3, 3), int), np.ones((3, 1, 1), int)):
        with pytest.raises(ValueError, match=r"`labels` must be \[B\], \[B, 1\] or \[B, 2\]"):
            layer(_random(3, 2, 2, 1), labels)


def test_labels_may_be_a_column_one_hot_or_mixed():
    layer = _intermediate(_two_classes())
    features = _random(3, 2, 2, 1)
    labels = np.array([1, 0, 1])
    expected = layer(features, labels)
    mixed = np.array([[0.3, 0.7], [0.9, 0.1], [0.45, 0.55]], "float32")
    for form in (labels[:, None], labels.astype("uint8"), np.eye(2)[labels], mixed):
        np.testing.assert_array_equal(layer(features, form), expected)


def test_features_are_pooled_first():
    features = _random(2, 4, 6, 1)
    pooled = features.reshape(2, 2, 2, 3, 2, 1).mean((2, 4))
    golden, labels = _two_classes(), np.array([0, 1])
    np.testing.assert_allclose(
        _intermediate(golden, pool_size=2)(features, labels), _intermediate(golden)(pooled, labels)
    )
    centers = _random(4, 1, seed=2)
    np.testing.assert_allclose(
        _penultimate(centers, pool_size=2)(features), _penultimate(centers)(pooled), rtol=1e-5
    )


def test_channels_first_features_give_the_same_targets():
    features, labels = _random(2, 4, 4, 1), np.array([0, 1])
    first = features.transpose(0, 3, 1, 2)
    for pool in (1, 2):
        last, layer = (
            _intermediate(_two_classes(), pool, data_format=f"channels_{end}")
            for end in ("last", "first")
        )
        np.testing.assert_array_equal(layer(first, labels), last(features, labels))
        last, layer = (
            _penultimate(_random(4, 1), pool, data_format=f"channels_{end}")
            for end in ("last", "first")
        )
        np.testing.assert_array_equal(layer(first), last(features))


# TF32


def _rounded_to_tf32(x):
    """`x` with a mantissa of 10 bits, to nearest, ties to even: what tensor cores multiply."""
    bits = np.ascontiguousarray(x, "float32").view("uint32")
    last = (bits >> np.uint32(13)) & np.uint32(1)
    bits = (bits + np.uint32(0xFFF) + last) & np.uint32(0xFFFFE000)
    return keras.ops.convert_to_tensor(bits.view("float32"))


class _TF32Ops:
    """`keras.ops` whose matrix products round their factors to TF32."""

    def __getattr__(self, name):
        return getattr(keras.ops, name)

    def conv(self, inputs, kernel, **kwargs):
        return keras.ops.conv(_rounded_to_tf32(inputs), _rounded_to_tf32(kernel), **kwargs)

    def matmul(self, x, y):
        return keras.ops.matmul(_rounded_to_tf32(x), _rounded_to_tf32(y))


def test_rounding_to_tf32_by_hand():
    ulp = 2.0**-10
    values = np.array([1 + ulp, 1 + ulp / 2, 1 + 1.5 * ulp, 1 + 0.51 * ulp, -3000.7, 0], "float32")
    expected = [1 + ulp, 1, 1 + 2 * ulp, 1 + ulp, -3000, 0]
    np.testing.assert_array_equal(_rounded_to_tf32(values), expected)


@pytest.mark.parametrize("channels", [64, 512, 2048])
def test_penultimate_targets_tolerate_tf32(monkeypatch, channels):
    """Features after a ReLU between two of 4096 centers, which are drawn from the same data."""
    r = np.random.default_rng(0)
    centers = np.maximum(r.normal(1, 0.5, (4096, channels)), 0).astype("float32")
    first, second = r.choice(4096, (2, 4, 4, 4))
    # Logits of the two centers that differ by at most 3, and a little noise.
    squares = np.square(centers[first] - centers[second]).sum(-1, keepdims=True)
    share = 0.5 + r.uniform(-1.5, 1.5, squares.shape) / squares
    features = share * centers[first] + (1 - share) * centers[second]
    features = np.abs(features + r.normal(0, 0.02, features.shape)).astype("float32")
    points, exact = features.reshape(-1, channels).astype("float64"), centers.astype("float64")
    expected = softmax(2 * points @ exact.T - np.square(exact).sum(1), axis=-1)
    layer = _penultimate(centers)
    monkeypatch.setattr("letkd_keras.layers.soft_targets.ops", _TF32Ops())
    targets, negentropy = layer(features, return_negentropy=True)
    targets = np.reshape(targets, expected.shape)
    assert np.abs(targets - expected).max() < 1e-2
    assert np.median(expected.max(axis=1)) < 0.9
    np.testing.assert_allclose(np.ravel(negentropy), xlogy(expected, expected).sum(1), atol=1e-2)
    # A bias that is part of the product is wrong by more.
    biased = 2 * np.float64(_rounded_to_tf32(features).numpy().reshape(points.shape)) @ exact.T
    biased -= np.float64(_rounded_to_tf32(np.square(centers).sum(1)))
    assert np.abs(softmax(biased, axis=-1) - expected).max() > 1e-2


@pytest.mark.parametrize("channels", [64, 1024])
def test_the_nearest_subclass_is_rarely_another_under_tf32(monkeypatch, channels):
    """Features of 20 classes with 8 sub-classes each, correlated, after a ReLU, LDA of 19."""
    r = np.random.default_rng(0)
    classes, subclasses, components = 20, 8, 19
    mixing = r.normal(0, 1, (channels, channels)) * np.geomspace(1, 0.05, channels)[:, None]
    class_means = r.normal(0, 2, (classes, 1, 1, channels))
    means = class_means + r.normal(0, 1, (classes, subclasses, 1, channels))
    latent = means + r.normal(0, 1, (classes, subclasses, 32, channels))
    features = np.maximum(1 + 0.5 * latent @ mixing / np.sqrt(channels), 0).astype("float32")
    points = features.reshape(-1, channels)
    labels = np.arange(classes).repeat(subclasses * 32)
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=1e-3).fit(points, labels)
    mean, scalings = points.mean(0), lda.scalings_[:, :components]
    z = (points - mean) @ scalings
    centers = z.reshape(classes * subclasses, 32, components).mean(1)
    layer = _intermediate(
        {
            "lda_mean": mean,
            "lda_scalings": scalings,
            "centers": centers,
            "subclass_scores": np.eye(classes * subclasses),
            "num_classes": classes,
            "subclasses_per_class": subclasses,
        }
    )
    own = centers.reshape(classes, subclasses, components)[labels]
    distances = np.square(z[:, None] - own).sum(-1)
    expected = distances.argmin(1) + labels * subclasses
    monkeypatch.setattr("letkd_keras.layers.soft_targets.ops", _TF32Ops())
    nearest = np.argmax(layer(points[:, None, None], labels), axis=-1).ravel()
    assert np.mean(nearest != expected) < 0.005
    # Where the choice is another one, the two centers are about as near.
    chosen = np.take_along_axis(distances, (nearest - labels * subclasses)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, distances.min(1), rtol=0.02)


# State

MAKERS = (
    lambda **options: _penultimate(_random(4, 1), **options),
    lambda **options: _intermediate(_two_classes(), **options),
)


def test_no_weight_is_trainable_and_all_are_float32_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        layers = [_penultimate(_random(4, 1)), _intermediate(_two_classes())]
        half = _random(2, 2, 2, 1).astype("float16")
        outputs = [layers[0](half), layers[1](half, np.array([0, 1]))]
    finally:
        keras.config.set_dtype_policy("float32")
    assert [layer.trainable_weights for layer in layers] == [[], []]
    assert {w.dtype for layer in layers for w in layer.weights} == {"float32"}
    assert {keras.backend.standardize_dtype(o.dtype) for o in outputs} == {"float32"}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("trainable", [False, True])
def test_trainable_is_an_argument_as_of_every_layer_and_trains_no_weight(make, trainable):
    layer = make(trainable=trainable)
    assert layer.trainable == trainable
    assert not layer.trainable_weights
    assert type(layer).from_config(layer.get_config()).trainable == trainable


def test_config_round_trip():
    common = {"pool_size": 2, "data_format": "channels_first"}
    for kind, options in (
        (PenultimateTargets, {"templates": 5, "temperature": 0.5, "name": "a", **common}),
        (IntermediateTargets, {"num_classes": 5, "subclasses": 3, "components": 4, **common}),
    ):
        layer = kind(**options)
        assert options.items() <= layer.get_config().items()
        again = kind.from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
        assert has_registered_name(again)
        assert (again.pool_size, again.data_format, again.trainable) == (2, "channels_first", False)
    assert again.templates == 15


def test_saved_and_loaded_the_targets_are_the_same(tmp_path):
    features, label = keras.Input((4, 4, 1)), keras.Input((), dtype="int32")
    layers = [_penultimate(_random(4, 1), name="p"), _intermediate(_two_classes(), name="i")]
    model = keras.Model(
        [features, label],
        [layers[0](features), *layers[1](features, label, return_negentropy=True)],
    )
    model.save(tmp_path / "targets.keras")
    loaded = keras.models.load_model(tmp_path / "targets.keras")
    x = [_random(3, 4, 4, 1), np.array([0, 1, 0])]
    for before, after in zip(model(x), loaded(x), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_copy_gives_the_same_targets(copied, data_format):
    shape = (2, 3, 3, 1) if data_format == "channels_last" else (2, 1, 3, 3)
    layers = [make(data_format=data_format) for make in MAKERS]
    for layer, labels in zip(layers, ([], [np.array([0, 1])]), strict=True):
        x = _random(*shape)
        np.testing.assert_array_equal(copied(layer)(x, *labels), layer(x, *labels))


def test_features_of_another_form_are_refused():
    for make, labels in zip(MAKERS, ([], [np.array([0, 1])]), strict=True):
        layer = make()
        with pytest.raises(ValueError, match="expected ndim=4, found ndim=2"):
            layer(_random(2, 1), *labels)
        with pytest.raises(ValueError, match=r"axis -1 .* to have value 1"):
            layer(_random(2, 3, 3, 5), *labels)
        unbuilt = type(layer).from_config(layer.get_config())
        with pytest.raises(ValueError, match=r"Targets needs a known number of channels\."):
            unbuilt.build((None, 3, 3, None))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("return_negentropy", [False, True])
def test_symbolic_shapes_are_the_eager_ones(data_format, return_negentropy):
    options = {"pool_size": 2, "data_format": data_format}
    layers = [
        _penultimate(_random(4, 1), **options),
        IntermediateTargets.from_config({**_intermediate(_two_classes()).get_config(), **options}),
    ]
    shape = (3, 6, 1) if data_format == "channels_last" else (1, 3, 6)
    asked = {"return_negentropy": True} if return_negentropy else {}
    for layer, labels in zip(layers, ([], [np.array([0, 1])]), strict=True):
        eager = layer(_random(2, *shape), *labels, **asked)
        shapes = [tuple(x.shape) for x in keras.tree.flatten(eager)]
        assert shapes[0] == (2, 2, 3, layer.templates)
        inputs = [keras.Input((), dtype="int32", batch_size=2) for _ in labels]
        symbolic = layer(keras.Input(shape, batch_size=2), *inputs, **asked)
        assert [tuple(x.shape) for x in keras.tree.flatten(symbolic)] == shapes
        computed = layer.compute_output_shape((2, *shape), **asked)
        assert (list(computed) if return_negentropy else [computed]) == shapes


# Refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PenultimateTargets(0), "`templates` must be an integer of at least 1.*=0"),
        (lambda: PenultimateTargets(True), "`templates` must be .*templates=True"),
        (
            lambda: PenultimateTargets(3, temperature=0),
            "`temperature` must be a finite number greater than 0",
        ),
        (lambda: PenultimateTargets(3, temperature=float("nan")), "`temperature` must .*nan"),
        (lambda: PenultimateTargets(3, temperature=float("inf")), "`temperature` must .*inf"),
        (lambda: PenultimateTargets(3, temperature="1"), "`temperature` must .*='1'"),
        (lambda: PenultimateTargets(3, pool_size=0), "`pool_size` must be .*pool_size=0"),
        (lambda: PenultimateTargets(3, data_format="NHWC"), "`data_format` must be .*'NHWC'"),
        (lambda: IntermediateTargets(3, 2, 2, pool_size=1.5), "`pool_size` must be .*=1.5"),
        (lambda: IntermediateTargets(0, 2, 2), "`num_classes` must be .*num_classes=0"),
        (lambda: IntermediateTargets(3, -1, 2), "`subclasses` must be .*subclasses=-1"),
        (lambda: IntermediateTargets(3, 2, 2.0), "`components` must be .*components=2.0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
